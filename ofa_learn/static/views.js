// What γ does to one image: state → numbers → what moves in the figures, for the widget and the page alike.
// The numbers are those of ofa_learn.plain, and a browser test holds the two equal.
function softmax(logits, temperature) {
  const top = Math.max(...logits);
  const powers = logits.map((z) => Math.exp((z - top) / temperature));
  const whole = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / whole);
}

function formWeights(probs, label, gamma) {
  const paper = probs.map((p, c) => c === label ? Math.pow(1 + p, gamma) : p);
  const released = probs.map((p, c) => c === label ? Math.pow(1 + p, gamma) - 1 : Math.pow(p, gamma));
  return {paper, released};
}

// A figure with other traces, another title, and other ranges of some axes.
function moved({data, layout}, traces, text, ranges) {
  const axes = Object.entries(ranges).map(([axis, range]) => [axis, {...layout[axis], range, autorange: false}]);
  return {
    data: data.map((trace, i) => ({...trace, ...traces[i]})),
    layout: {...layout, ...Object.fromEntries(axes), title: {...layout.title, text}},
  };
}

// A figure after one step of a table: its title, its range, and the arrays that change.
const stepped = (figure, {title, range, traces}) => moved(figure, traces, title, {yaxis: range});

// A figure whose traces and layout are numbers of what stands once in a pool.
const pooled = (pool, [traces, layout]) => ({data: traces.map((i) => pool[i]), layout: pool[layout]});

// By name, a figure as the kernel drew it, what is given, and the controls' values → the figure now;
// null where only the kernel knows it.
const views = {
  weighting(figure, given, values) {
    const {probs, label, gamma} = imageState(given, values);
    const grid = figure.data[0].x;
    const p = probs[label];
    const {paper, released} = formWeights(probs, label, gamma);
    // In steps, so that the curves are seen to move.
    const top = 1.05 * [4, 8, 16].find((power) => Math.pow(2, gamma) <= power);
    const traces = [
      {},
      {y: grid.map((q) => Math.pow(1 + q, gamma))},
      {y: grid.map((q) => Math.pow(1 + q, gamma) - 1)},
      {x: [p, p], y: [paper[label], released[label]]},
    ];
    return moved(figure, traces, `Weight of the true class at γ = ${gamma}`, {yaxis: [-0.02 * top, top]});
  },
  classes(figure, given, values) {
    const {probs, label, gamma, names} = imageState(given, values);
    const {paper, released} = formWeights(probs, label, gamma);
    const wrong = probs.map((_, c) => c).filter((c) => c !== label);
    const traces = [[label], wrong].flatMap((at) => [probs, paper, released].map((values) => (
      {x: at.map((c) => names[c]), y: at.map((c) => values[c])}
    )));
    let top = Math.max(0.05, 1.1 * Math.max(0, ...wrong.map((c) => probs[c])));
    while (wrong.some((c) => released[c] > top)) top *= 2;  // below γ = 1
    const reach = 2 ** Math.ceil(Math.log2(Math.max(paper[label], 2)));
    const ranges = {yaxis: [0, 1.05 * reach], yaxis2: [0, top]};
    return moved(figure, traces, `What each class counts at γ = ${gamma}`, ranges);
  },
  // Over γ, as long as all other controls stand where they stood when the table was made.
  steps(figure, {among, steps}, values) {
    const known = Object.entries(among).every(([name, there]) => there.includes(values[name]));
    return known ? stepped(figure, steps[among.gamma.indexOf(values.gamma)]) : null;
  },
  // Over all recorded choices. A control in `lines` only moves a line, which has its name.
  choices(figure, {controls, lines, states, pool}, values) {
    const place = ([name, there]) => [values[name]].flat().map((value) => there.indexOf(value)).join('+');
    const key = controls.map(place).join(',');
    if (!states[key]) {  // the values still reach the kernel
      console.error(`no state ${key} among ${Object.keys(states).length}: ${JSON.stringify(values)}`);
      return null;
    }
    const {data, layout} = pooled(pool, states[key]);
    const standing = ({name, x}) => lines.includes(name) ? {x: x.map(() => values[name])} : {};
    return {data: data.map((trace) => ({...trace, ...standing(trace)})), layout};
  },
};

// What a view needs, from what is given (cards with label, and logits or probs; names) and the controls.
function imageState({cards, names}, {gamma, temperature, digit}) {
  const {label, logits, probs} = cards[digit];
  return {label, names, gamma, probs: probs ?? softmax(logits, temperature)};
}

// What γ does to one image: state → numbers → what moves in the figures, for the widget and the page alike.
// The numbers are those of ofa_learn.plain and ofa_learn.widgets, and browser tests hold the two equal.
function softmax(logits, temperature) {
  const top = Math.max(...logits);
  const powers = logits.map((z) => Math.exp((z - top) / temperature));
  const whole = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / whole);
}

// −log softmax(z/T), what each class would cost.
function costs(logits, temperature) {
  const top = Math.max(...logits);
  const whole = logits.reduce((sum, z) => sum + Math.exp((z - top) / temperature), 0);
  return logits.map((z) => Math.log(whole) - (z - top) / temperature);
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

const total = (values) => values.reduce((sum, v) => sum + v, 0);

// The smallest power of 2 above all values, with a tenth to spare.
const powerAbove = (...values) => 2 ** Math.ceil(Math.log2(Math.max(1.1 * Math.max(...values), 0.1)));

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
  // The loss by Eqs. 5 to 8, taken apart into bars that stand on one another, and its gradient, for one digit and its student.
  anatomy(figure, given, values) {
    const state = anatomyState(given, values);
    if (!state) return null;
    const {gamma, p, ce, dark, target, weights} = state;
    const series = weights.map((weight) => weight * ce);
    const rest = (target - 1 - total(weights)) * ce;
    const stacks = [
      [dark, ce, p * ce, 0, 0, 0, 0, 0],
      [dark, 0, 0, 0, 0, 0, 0, target * ce],
      [dark, ce, ...series, rest, 0],
      [dark, ce, 2 * p * ce, p * p * ce, 0, 0, 0, 0],
    ];
    const totals = stacks.map(total);
    const summed = stacks[0].map((_, i) => ({y: stacks.map((stack) => stack[i])}));
    const traces = [...summed, {y: totals, text: totals.map((v) => v.toFixed(3))}];
    const below = Math.min(...stacks.map((stack) => total(stack.filter((v) => v < 0))));
    const low = below < -1e-9 ? -powerAbove(-below) / 2 : 0;
    const top = powerAbove(...stacks.map((stack) => total(stack.filter((v) => v > 0))));
    return moved(figure, traces, `One image’s loss at γ = ${gamma}`, {yaxis: [low, top]});
  },
  gradient(figure, given, values) {
    const state = anatomyState(given, values);
    if (!state) return null;
    const {gamma, temperature, label, teacher, own} = state;
    const lines = [1, gamma].map((power) => {
      const {paper} = formWeights(teacher, label, power);
      return own.map((q, c) => (total(paper) * q - paper[c]) / temperature);
    });
    const top = powerAbove(...lines.flat().map(Math.abs));
    const traces = lines.map((y) => ({y}));
    return moved(figure, traces, `What the student feels at γ = ${gamma}`, {yaxis: [-top, top]});
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

// What an image's loss is made of (Eqs. 5 to 8), as long as the digit is the one that was given: its classes
// `moving` have their student's logits from the sliders z0, z1 and z2.
function anatomyState({among, label, logits, student, moving}, {gamma, temperature, digit, ...sliders}) {
  if (!among.digit.includes(digit)) return null;
  const z = student.map((v, c) => moving.includes(c) ? sliders[`z${moving.indexOf(c)}`] : v);
  const [teacher, own] = [logits, z].map((values) => softmax(values, temperature));
  const cost = costs(z, temperature);
  const p = teacher[label];
  const dark = total(cost.map((v, c) => c === label ? 0 : teacher[c] * v));
  // The first terms C(γ, k) pᵏ of (1 + p)^γ − 1; a whole γ ends the series.
  const weights = [1, 2, 3, 4].reduce(([out, term], k) => {
    const next = term * p * (gamma - k + 1) / k;
    return [[...out, next], next];
  }, [[], 1])[0];
  return {gamma, temperature, label, teacher, own, p, ce: cost[label], dark, weights, target: (1 + p) ** gamma};
}

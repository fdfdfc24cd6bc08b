// Figures that move without a kernel. Each <figure class="ofa-twin"> holds its state as JSON in a <script>; this file
// draws it, and gives a figure with data-twin="gamma" its controls. It needs plotly.js on the page as `Plotly`, and shared.js.
// The figures' first state comes from Python; gammaNumbers mirrors ofa_learn.twins.gamma_numbers, and a browser test
// holds the two equal.
(function () {
  'use strict';

  const CONFIG = {displayModeBar: false, responsive: true};

  function gammaNumbers(probs, label, gamma) {
    const paper = probs.map((p, c) => c === label ? Math.pow(1 + p, gamma) : p);
    const released = probs.map((p, c) => c === label ? Math.pow(1 + p, gamma) - 1 : Math.pow(p, gamma));
    const others = (weights) => weights.reduce((sum, v, c) => c === label ? sum : sum + v, 0);
    return {paper, released, target_paper: paper[label], target_released: released[label],
            dark_paper: others(paper), dark_released: others(released)};
  }

  function gammaSentence(n) {
    return `True class: weight ${n.target_paper.toFixed(3)} in the paper’s form, ${n.target_released.toFixed(3)} in the released one. ` +
           `All wrong classes together: ${n.dark_paper.toFixed(4)} in the paper’s form, ${n.dark_released.toFixed(4)} in the released one.`;
  }

  function plotIn(figure, spec) {
    const node = element('div', {class: 'plot', style: `height: ${spec.layout.height}px`});   // or plotly forgets it when the window changes
    figure.insertBefore(node, figure.querySelector('.numbers, figcaption'));
    Plotly.newPlot(node, spec.data, spec.layout, CONFIG);
    return node;
  }

  function sliderIn(parent, id, start) {
    element('label', {for: id, text: 'γ'}, parent);
    const slider = element('input', {type: 'range', id, min: '1', max: '4', step: '0.1', value: String(start)}, parent);
    return [slider, element('output', {for: id}, parent)];
  }

  function percent(p) {      // no 100 % for .9996, no 0 % for .0004
    return p > 0 && p < 0.005 ? '<1 %' : p < 1 && p > 0.995 ? '>99 %' : `${(100 * p).toFixed(0)} %`;
  }

  function stripIn(parent, name, state) {
    const strip = element('fieldset', {class: 'strip'}, parent);
    element('legend', {text: 'An image, its true class, and how sure the teacher is of that class'}, strip);
    state.digits.forEach((d, i) => {
      const label = element('label', {}, strip);
      const radio = element('input', {type: 'radio', name, value: String(i)}, label);
      radio.checked = i === 0;
      thumbnail(d.image, label);
      element('span', {text: `${state.classes[d.label]}: ${percent(d.probs[d.label])}`}, label);
    });
    return strip;
  }

  function mountGamma(figure, state, number) {
    const controls = element('div', {class: 'controls'});
    figure.insertBefore(controls, figure.firstChild);
    const [slider, output] = sliderIn(controls, `twin-${number}-gamma`, state.gamma);
    const strip = stripIn(controls, `twin-${number}-image`, state);
    const [weighting, classes] = state.figures, nodes = state.figures.map((spec) => plotIn(figure, spec));

    function draw() {
      const gamma = Number(slider.value), d = state.digits[Number(strip.querySelector('input:checked').value)];
      const n = gammaNumbers(d.probs, d.label, gamma), grid = weighting.data[0].x, p = d.probs[d.label];
      const curve = (trace, y) => Object.assign({}, trace, {y});
      const top = 1.05 * (gamma <= 2 ? 4 : gamma <= 3 ? 8 : 16);      // in steps, so that the curves are seen to move
      Plotly.react(nodes[0], [weighting.data[0], curve(weighting.data[1], grid.map((q) => Math.pow(1 + q, gamma))),
        curve(weighting.data[2], grid.map((q) => Math.pow(1 + q, gamma) - 1)),
        Object.assign({}, weighting.data[3], {x: [p, p], y: [n.target_paper, n.target_released]})],
        retitled(weighting.layout, `Weight of the true class at γ = ${gamma.toFixed(1)}`, 'yaxis', [-0.02 * top, top]), CONFIG);
      const wrong = d.probs.map((_, c) => c).filter((c) => c !== d.label), series = [d.probs, n.paper, n.released];
      const bars = [[d.label], wrong].flatMap((at) => series.map((values) => ({x: at.map((c) => state.names[c]), y: at.map((c) => values[c])})));
      Plotly.react(nodes[1], classes.data.map((trace, i) => Object.assign({}, trace, bars[i])),
        retitled(classes.layout, `What each class counts at γ = ${gamma.toFixed(1)}`, 'yaxis2', [0, Math.max(0.05, ...wrong.map((c) => 1.1 * d.probs[c]))]), CONFIG);
      output.textContent = gamma.toFixed(1);
      slider.setAttribute('aria-valuetext', `gamma ${gamma.toFixed(1)}`);
      figure.querySelector('.numbers').textContent = gammaSentence(n);
    }
    slider.addEventListener('input', draw);
    strip.addEventListener('change', draw);
    draw();
  }

  function retitled(layout, text, axis, range) {
    return Object.assign({}, layout, {title: Object.assign({}, layout.title, {text}), [axis]: Object.assign({}, layout[axis], {range, autorange: false})});
  }

  // Precomputed: state.steps holds, for each γ of the slider, what changes in each figure (ofa_learn.widgets.steps_twin).
  function mountSteps(figure, state, number) {
    const controls = element('div', {class: 'controls'});
    figure.insertBefore(controls, figure.firstChild);
    const [slider, output] = sliderIn(controls, `twin-${number}-gamma`, state.gamma), nodes = state.figures.map((spec) => plotIn(figure, spec));

    function draw() {
      const gamma = Number(slider.value), step = state.steps[Math.round((gamma - 1) / 0.1)];
      nodes.forEach((node, i) => {
        const {data, layout} = state.figures[i], {title, range, traces} = step.figures[i];
        Plotly.react(node, data.map((trace, k) => Object.assign({}, trace, traces[k])), retitled(layout, title, 'yaxis', range), CONFIG);
      });
      output.textContent = gamma.toFixed(1);
      slider.setAttribute('aria-valuetext', `gamma ${gamma.toFixed(1)}`);
      figure.querySelector('.numbers').textContent = step.text;
    }
    slider.addEventListener('input', draw);
    draw();
  }

  // One control of a twin of choices; `key` says what is chosen, as state.states has it.
  function choiceIn(parent, id, {kind, label, names, value}, changed) {
    if (kind === 'checks') {
      const box = element('fieldset', {class: 'checks'}, parent);
      element('legend', {text: label}, box);
      const boxes = names.map((text, i) => {
        const line = element('label', {}, box), check = element('input', {type: 'checkbox'}, line);
        element('span', {text}, line);
        check.checked = value.includes(i);
        return check;
      });
      box.addEventListener('change', changed);
      return () => boxes.flatMap((check, i) => check.checked ? [i] : []).join('+');
    }
    const row = element('div', {class: 'choice'}, parent);
    element('label', {for: id, text: label}, row);
    if (kind === 'select') {
      const list = element('select', {id}, row);
      names.forEach((text, i) => element('option', {value: String(i), text}, list));
      list.selectedIndex = value;
      list.addEventListener('change', changed);
      return () => String(list.selectedIndex);
    }
    const slider = element('input', {type: 'range', id, min: '0', max: String(names.length - 1), step: '1'}, row), output = element('output', {for: id}, row);
    slider.value = String(value);
    const show = () => { output.textContent = names[Number(slider.value)]; slider.setAttribute('aria-valuetext', output.textContent); };
    slider.addEventListener('input', () => { show(); changed(); });
    show();
    return () => slider.value;
  }

  // Precomputed: every choice has its figures and words in state.states, as numbers of what stands once in state.pool
  // (ofa_learn.explorers.choices_twin).
  function mountChoices(figure, state, number) {
    const controls = element('div', {class: 'controls'});
    figure.insertBefore(controls, figure.firstChild);
    const keys = state.controls.map((c, i) => choiceIn(controls, `twin-${number}-choice-${i}`, c, () => draw()));
    const now = () => state.states[keys.map((key) => key()).join(',')], taken = (id) => structuredClone(state.pool[id]);   // plotly writes into what it draws
    const spec = ([traces, layout]) => ({data: traces.map(taken), layout: taken(layout)});
    const nodes = now().figures.map((f) => plotIn(figure, spec(f)));

    function draw() {
      const {figures, words, table} = now();
      nodes.forEach((node, i) => { const {data, layout} = spec(figures[i]); Plotly.react(node, data, layout, CONFIG); });
      figure.querySelector('.numbers').textContent = state.pool[words];
      figure.querySelector('.cells').innerHTML = state.pool[table];        // of records.table_html, which escapes
    }
    draw();
  }

  const mounts = {gamma: mountGamma, steps: mountSteps, choices: mountChoices, plot: (figure, state) => plotIn(figure, state)};

  function mountAll() {
    document.querySelectorAll('figure.ofa-twin').forEach((figure, number) => {
      const state = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
      mounts[figure.dataset.twin](figure, state, number);
    });
  }
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', mountAll); else mountAll();
})();

// Figures that move without a kernel. Each <figure class="ofa-page"> holds its state as JSON in a <script>;
// this file draws it and gives it its controls. It needs plotly.js on the page as `Plotly`, and shared.js.
// The figures' first state comes from Python; gammaNumbers mirrors ofa_learn.pages.gamma_numbers,
// and a browser test holds the two equal.
(function () {
  'use strict';

  const CONFIG = {displayModeBar: false, responsive: true};

  function gammaNumbers(probs, label, gamma) {
    const paper = probs.map((p, c) => c === label ? Math.pow(1 + p, gamma) : p);
    const released = probs.map((p, c) => c === label ? Math.pow(1 + p, gamma) - 1 : Math.pow(p, gamma));
    const others = (weights) => weights.reduce((sum, v, c) => c === label ? sum : sum + v, 0);
    return {
      paper,
      released,
      target_paper: paper[label],
      target_released: released[label],
      dark_paper: others(paper),
      dark_released: others(released),
    };
  }

  function gammaSentence(n) {
    return `True class: weight ${n.target_paper.toFixed(3)} in the paper’s form, ` +
      `${n.target_released.toFixed(3)} in the released one. ` +
      `All wrong classes together: ${n.dark_paper.toFixed(4)} in the paper’s form, ` +
      `${n.dark_released.toFixed(4)} in the released one.`;
  }

  // Room for a figure's controls, above all that it holds.
  function controlsIn(figure) {
    const controls = element('div', {class: 'controls'});
    figure.insertBefore(controls, figure.firstChild);
    return controls;
  }

  function plotIn(figure, spec) {
    // The height stands in the style, or plotly forgets it when the window changes.
    const node = element('div', {class: 'plot', style: `height: ${spec.layout.height}px`});
    figure.insertBefore(node, figure.querySelector('.numbers, figcaption'));
    Plotly.newPlot(node, spec.data, spec.layout, CONFIG);
    return node;
  }

  // A slider over γ from 1 to 4; it returns a function that gives its value and says it.
  function gammaIn(parent, id, start, changed) {
    element('label', {for: id, text: 'γ'}, parent);
    const limits = {min: '1', max: '4', step: '0.1', value: String(start)};
    const slider = element('input', {type: 'range', id, ...limits}, parent);
    const output = element('output', {for: id}, parent);
    slider.addEventListener('input', changed);
    return () => {
      const gamma = Number(slider.value);
      output.textContent = gamma.toFixed(1);
      slider.setAttribute('aria-valuetext', `gamma ${gamma.toFixed(1)}`);
      return gamma;
    };
  }

  // No 100 % for .9996, no 0 % for .0004.
  function percent(p) {
    if (p > 0 && p < 0.005) return '<1 %';
    if (p < 1 && p > 0.995) return '>99 %';
    return `${(100 * p).toFixed(0)} %`;
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

  // A layout with another title and another range of one axis.
  function retitled(layout, text, axis, range) {
    return {
      ...layout,
      title: {...layout.title, text},
      [axis]: {...layout[axis], range, autorange: false},
    };
  }

  function mountGamma(figure, state, number) {
    const controls = controlsIn(figure);
    const gammaNow = gammaIn(controls, `page-${number}-gamma`, state.gamma, draw);
    const strip = stripIn(controls, `page-${number}-image`, state);
    strip.addEventListener('change', draw);
    const nodes = state.figures.map((spec) => plotIn(figure, spec));

    function drawWeighting(gamma, n, p) {
      const {data, layout} = state.figures[0];
      const grid = data[0].x;
      const paper = grid.map((q) => Math.pow(1 + q, gamma));
      const released = grid.map((q) => Math.pow(1 + q, gamma) - 1);
      const traces = [
        data[0],
        {...data[1], y: paper},
        {...data[2], y: released},
        {...data[3], x: [p, p], y: [n.target_paper, n.target_released]},
      ];
      // In steps, so that the curves are seen to move.
      const top = 1.05 * [4, 8, 16].find((power) => Math.pow(2, gamma) <= power);
      const title = `Weight of the true class at γ = ${gamma.toFixed(1)}`;
      Plotly.react(nodes[0], traces, retitled(layout, title, 'yaxis', [-0.02 * top, top]), CONFIG);
    }

    function drawClasses(gamma, n, d) {
      const {data, layout} = state.figures[1];
      const wrong = d.probs.map((_, c) => c).filter((c) => c !== d.label);
      const bars = [[d.label], wrong].flatMap((at) => [d.probs, n.paper, n.released].map((values) => (
        {x: at.map((c) => state.names[c]), y: at.map((c) => values[c])}
      )));
      const top = Math.max(0.05, ...wrong.map((c) => 1.1 * d.probs[c]));
      const title = `What each class counts at γ = ${gamma.toFixed(1)}`;
      const traces = data.map((trace, i) => ({...trace, ...bars[i]}));
      Plotly.react(nodes[1], traces, retitled(layout, title, 'yaxis2', [0, top]), CONFIG);
    }

    function draw() {
      const gamma = gammaNow();
      const d = state.digits[Number(strip.querySelector('input:checked').value)];
      const n = gammaNumbers(d.probs, d.label, gamma);
      drawWeighting(gamma, n, d.probs[d.label]);
      drawClasses(gamma, n, d);
      figure.querySelector('.numbers').textContent = gammaSentence(n);
    }
    draw();
  }

  // Precomputed: state.steps holds, for each γ of the slider, what changes in each figure
  // (ofa_learn.widgets._steps_version).
  function mountSteps(figure, state, number) {
    const gammaNow = gammaIn(controlsIn(figure), `page-${number}-gamma`, state.gamma, draw);
    const nodes = state.figures.map((spec) => plotIn(figure, spec));

    function draw() {
      const step = state.steps[Math.round((gammaNow() - 1) / 0.1)];
      nodes.forEach((node, i) => {
        const {data, layout} = state.figures[i];
        const {title, range, traces} = step.figures[i];
        const moved = data.map((trace, k) => ({...trace, ...traces[k]}));
        Plotly.react(node, moved, retitled(layout, title, 'yaxis', range), CONFIG);
      });
      figure.querySelector('.numbers').textContent = step.text;
    }
    draw();
  }

  // One control of a page version of choices; it returns a function that says what is chosen,
  // as a part of a key of state.states.
  function choiceIn(parent, id, control, changed) {
    if (control.kind === 'checks') return checksIn(parent, control, changed);
    const row = element('div', {class: 'choice'}, parent);
    element('label', {for: id, text: control.label}, row);
    const kind = control.kind === 'select' ? selectIn : stopsIn;
    return kind(row, id, control, changed);
  }

  function checksIn(parent, {label, names, value}, changed) {
    const box = element('fieldset', {class: 'checks'}, parent);
    element('legend', {text: label}, box);
    const boxes = names.map((text, i) => {
      const line = element('label', {}, box);
      const check = element('input', {type: 'checkbox'}, line);
      element('span', {text}, line);
      check.checked = value.includes(i);
      return check;
    });
    box.addEventListener('change', changed);
    return () => boxes.flatMap((check, i) => check.checked ? [i] : []).join('+');
  }

  function selectIn(row, id, {names, value}, changed) {
    const list = element('select', {id}, row);
    names.forEach((text, i) => element('option', {value: String(i), text}, list));
    list.selectedIndex = value;
    list.addEventListener('change', changed);
    return () => String(list.selectedIndex);
  }

  function stopsIn(row, id, {names, value}, changed) {
    const limits = {min: '0', max: String(names.length - 1), step: '1'};
    const slider = element('input', {type: 'range', id, ...limits}, row);
    const output = element('output', {for: id}, row);
    slider.value = String(value);
    function show() {
      output.textContent = names[Number(slider.value)];
      slider.setAttribute('aria-valuetext', output.textContent);
    }
    slider.addEventListener('input', () => {
      show();
      changed();
    });
    show();
    return () => slider.value;
  }

  // Precomputed: every choice has its figures and words in state.states, as numbers of what stands once in
  // state.pool (ofa_learn.explorers._choices_version).
  function mountChoices(figure, state, number) {
    const controls = controlsIn(figure);
    const keys = state.controls.map((c, i) => choiceIn(controls, `page-${number}-choice-${i}`, c, draw));
    const now = () => state.states[keys.map((key) => key()).join(',')];
    const taken = (id) => structuredClone(state.pool[id]);  // plotly writes into what it draws
    const spec = ([traces, layout]) => ({data: traces.map(taken), layout: taken(layout)});
    const nodes = now().figures.map((f) => plotIn(figure, spec(f)));

    function draw() {
      const {figures, words, table} = now();
      nodes.forEach((node, i) => {
        const {data, layout} = spec(figures[i]);
        Plotly.react(node, data, layout, CONFIG);
      });
      figure.querySelector('.numbers').textContent = state.pool[words];
      figure.querySelector('.cells').innerHTML = state.pool[table];  // of records.table_html, which escapes
    }
    draw();
  }

  const mounts = {gamma: mountGamma, steps: mountSteps, choices: mountChoices, plot: plotIn};

  function mountAll() {
    document.querySelectorAll('figure.ofa-page').forEach((figure, number) => {
      const state = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
      mounts[figure.dataset.page](figure, state, number);
    });
  }

  if (document.readyState === 'loading') {
    document.addEventListener('DOMContentLoaded', mountAll);
  } else {
    mountAll();
  }
})();

// Figures that move without a kernel. Each <figure class="ofa-page"> holds its state as JSON in a <script>;
// this file draws it and gives it its controls. It needs plotly.js on the page as `Plotly`, and shared.js,
// figure.js and views.js before it. The figures' first state comes from Python.
(function () {
  'use strict';

  const CONFIG = {displayModeBar: false, responsive: true};

  function gammaSentence({probs, label, gamma}) {
    const {paper, released} = formWeights(probs, label, gamma);
    const others = (weights) => weights.reduce((sum, v, c) => c === label ? sum : sum + v, 0);
    return `True class: weight ${paper[label].toFixed(3)} in the paper’s form, ` +
      `${released[label].toFixed(3)} in the released one. ` +
      `All wrong classes together: ${others(paper).toFixed(4)} in the paper’s form, ` +
      `${others(released).toFixed(4)} in the released one.`;
  }

  // Room for a figure's controls, above all that it holds.
  function controlsIn(figure) {
    const controls = element('div', {class: 'controls'});
    figure.insertBefore(controls, figure.firstChild);
    return controls;
  }

  // Places for figures; all are there before the first is drawn, so that each knows its width.
  function plotsIn(figure, specs) {
    const nodes = specs.map(({layout}) => {
      // The height stands in the style, or plotly forgets it when the window changes.
      const node = element('div', {class: 'plot', style: `height: ${layout.height}px`});
      figure.insertBefore(node, figure.querySelector('.numbers, figcaption'));
      return node;
    });
    const places = nodes.map((node) => stage(Plotly, node, CONFIG));
    places.forEach((place, i) => place.show(specs[i]));
    return places;
  }

  // A slider over γ up to 4; it returns a function that gives its value and says it.
  function gammaIn(parent, id, least, start, changed) {
    element('label', {for: id, text: 'γ'}, parent);
    const limits = {min: String(least), max: '4', step: '0.1', value: String(start)};
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

  function mountGamma(figure, state, number) {
    const controls = controlsIn(figure);
    const gammaNow = gammaIn(controls, `page-${number}-gamma`, 0.1, state.gamma, draw);
    const strip = stripIn(controls, `page-${number}-image`, state);
    strip.addEventListener('change', draw);
    const places = plotsIn(figure, state.figures);

    function draw() {
      const given = {cards: state.digits, names: state.names};
      const digit = Number(strip.querySelector('input:checked').value);
      const values = {gamma: gammaNow(), digit};
      ['weighting', 'classes'].forEach((name, i) => places[i].show(views[name](state.figures[i], given, values)));
      figure.querySelector('.numbers').textContent = gammaSentence(imageState(given, values));
    }
    draw();
  }

  // The figures are computed here; state.texts holds, for each γ of the slider, what to say
  // (ofa_learn.pages.steps_version).
  function mountSteps(figure, state, number) {
    const gammaNow = gammaIn(controlsIn(figure), `page-${number}-gamma`, 1, state.gamma, draw);
    const places = plotsIn(figure, state.figures);

    function draw() {
      const values = {...state.values, gamma: gammaNow()};
      places.forEach((place, i) => place.show(views[state.views[i]](state.figures[i], state.given, values)));
      figure.querySelector('.numbers').textContent = state.texts[Math.round((values.gamma - 1) / 0.1)];
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
    const spec = (numbers) => pooled(state.pool, numbers);
    const places = plotsIn(figure, now().figures.map(spec));

    function draw() {
      const {figures, words, table} = now();
      places.forEach((place, i) => place.show(spec(figures[i])));
      figure.querySelector('.numbers').textContent = state.pool[words];
      figure.querySelector('.cells').innerHTML = state.pool[table];  // of records.table_html, which escapes
    }
    draw();
  }

  const mountPlot = (figure, spec) => plotsIn(figure, [spec]);

  const mounts = {gamma: mountGamma, steps: mountSteps, choices: mountChoices, plot: mountPlot};

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

// Figures that move without a kernel: each <figure class="ofa-twin"> holds its state as JSON and gets its controls here.
// Needs plotly.js on the page as `Plotly`. The numbers mirror ofa_learn.twins.gamma_numbers; a browser test holds the two equal.
(function () {
  'use strict';

  function gammaNumbers(probs, label, gamma) {
    const paper = probs.map((p, c) => c === label ? Math.pow(1 + p, gamma) : p);
    const released = probs.map((p, c) => c === label ? Math.pow(1 + p, gamma) - 1 : Math.pow(p, gamma));
    const others = (w) => w.reduce((sum, v, c) => c === label ? sum : sum + v, 0);
    return {paper, released, dark_paper: others(paper), dark_released: others(released)};
  }

  function element(tag, attributes, parent) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === 'text') node.textContent = value; else node.setAttribute(name, value);
    }
    if (parent) parent.appendChild(node);
    return node;
  }

  function thumbnail(image, parent) {
    const height = image.length, width = image[0].length;
    const canvas = element('canvas', {width, height, 'aria-hidden': 'true'}, parent);
    const context = canvas.getContext('2d'), pixels = context.createImageData(width, height);
    image.flat().forEach((v, i) => pixels.data.set([255 - v, 255 - v, 255 - v, 255], 4 * i));
    context.putImageData(pixels, 0, 0);
  }

  function mountGamma(figure, state, number) {
    const id = (name) => `twin-${number}-${name}`;
    const controls = element('div', {class: 'controls'});
    figure.insertBefore(controls, figure.firstChild);
    element('label', {for: id('gamma'), text: 'γ '}, controls);
    const slider = element('input', {type: 'range', id: id('gamma'), min: '1', max: '4', step: '0.1', value: String(state.gamma)}, controls);
    const output = element('output', {for: id('gamma')}, controls);
    const strip = element('fieldset', {class: 'strip'}, controls);
    element('legend', {text: 'a digit, and how sure the teacher is of its true class'}, strip);
    state.digits.forEach((d, i) => {
      const label = element('label', {}, strip);
      const radio = element('input', {type: 'radio', name: id('digit'), value: String(i)}, label);
      radio.checked = i === 0;
      thumbnail(d.image, label);
      element('span', {text: `${d.label}: ${(100 * d.probs[d.label]).toFixed(0)} %`}, label);
    });
    const plots = [element('div', {class: 'plot weighting'}, figure), element('div', {class: 'plot classes'}, figure)];
    const sentence = element('p', {class: 'numbers', role: 'status'}, figure);
    figure.appendChild(figure.querySelector('figcaption'));

    function draw() {
      const gamma = Number(slider.value), chosen = Number(strip.querySelector('input:checked').value);
      const d = state.digits[chosen], n = gammaNumbers(d.probs, d.label, gamma), p = d.probs[d.label];
      const grid = Array.from({length: 51}, (_, i) => i / 50), colour = state.colours;
      const config = {displayModeBar: false, responsive: true};
      const layout = (title, x, y, more) => Object.assign({title: {text: title, font: {size: 15}}, height: 340, margin: {l: 55, r: 15, t: 45, b: 45},
        font: {family: 'system-ui, sans-serif'}, legend: {orientation: 'h', y: -0.25}, xaxis: {title: {text: x}}, yaxis: {title: {text: y}}}, more);
      Plotly.react(plots[0], [
        {x: grid, y: grid.map((q) => 1 + q), name: 'γ = 1 (KD)', line: {color: colour.kd, dash: 'dot'}},
        {x: grid, y: grid.map((q) => Math.pow(1 + q, gamma)), name: 'paper', line: {color: colour.paper}},
        {x: grid, y: grid.map((q) => Math.pow(1 + q, gamma) - 1), name: 'released', line: {color: colour.released, dash: 'longdash'}},
        {x: [p, p], y: [n.paper[d.label], n.released[d.label]], mode: 'markers', name: 'this digit', marker: {size: 11, color: '#000'}},
      ], layout(`Weight of the true class at γ = ${gamma.toFixed(1)}`, 'teacher’s probability of the true class', 'weight', {yaxis: {title: {text: 'weight'}, range: [0, 16.5 ** (gamma / 4)]}}), config);
      const names = state.classes.map((c, i) => i === d.label ? `${c} (true)` : c);
      Plotly.react(plots[1], [
        {type: 'bar', x: names, y: d.probs, name: 'teacher’s probability', marker: {color: '#767676'}},
        {type: 'bar', x: names, y: n.paper, name: 'weight, paper', marker: {color: colour.paper}},
        {type: 'bar', x: names, y: n.released, name: 'weight, released', marker: {color: colour.released}},
      ], layout('What each class counts', 'class', 'probability or weight', {}), config);
      output.textContent = gamma.toFixed(1);
      slider.setAttribute('aria-valuetext', `gamma ${gamma.toFixed(1)}`);
      sentence.textContent = `True class: weight ${n.paper[d.label].toFixed(2)} in the paper’s form, ${n.released[d.label].toFixed(2)} in the released one. ` +
        `Wrong classes together: ${n.dark_paper.toFixed(3)} in the paper’s form, ${n.dark_released.toFixed(3)} in the released one.`;
    }
    slider.addEventListener('input', draw);
    strip.addEventListener('change', draw);
    draw();
  }

  const mounts = {gamma: mountGamma};
  function mountAll() {
    document.querySelectorAll('figure.ofa-twin').forEach((figure, number) => {
      const state = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
      mounts[figure.dataset.twin](figure, state, number);
    });
  }
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', mountAll); else mountAll();
})();

// The controls of ofa_learn.widgets, ofa_learn.explorers and ofa_learn.live, for anywidget (after shared.js).
// They are native inputs, so keys and screen readers work as everywhere.

// It holds JupyterLab's shortcuts off, or an arrow key would move to the next cell.
// It must be on the input itself, where JupyterLab begins to look.
const QUIET = {'data-lm-suppress-shortcuts': 'true'};

// anywidget loads this file again for every control, so a counter would start at 0 each time.
const unique = (name) => `${name}-${Math.random().toString(36).slice(2)}`;

function send(model, value) {
  model.set('value', value);
  model.save_changes();
}

// Show a control's state now and whenever it changes; what is returned ends that.
function follow(model, event, show) {
  model.on(event, show);
  show();
  return () => model.off(event, show);
}

// A label, a range input, and what it stands at.
function slide(parent, id, limits) {
  const row = element('div', {class: 'ofa-range'}, parent);
  const label = element('label', {for: id}, row);
  const slider = element('input', {type: 'range', id, ...limits, ...QUIET}, row);
  const output = element('output', {for: id}, row);
  return {label, slider, output};
}

function range(model, el) {
  const {label, slider, output} = slide(el, unique('ofa-range'), {});
  slider.addEventListener('input', () => send(model, Number(slider.value)));
  return follow(model, 'change', () => {
    const digits = Math.max(0, Math.ceil(-Math.log10(model.get('step'))));
    const text = model.get('value').toFixed(digits);
    for (const name of ['min', 'max', 'step']) slider.setAttribute(name, String(model.get(name)));
    slider.value = String(model.get('value'));
    label.textContent = model.get('description');
    output.textContent = text;
    slider.setAttribute('aria-valuetext', text);
  });
}

// For ofa_learn.explorers, three ways to choose out of `values`, shown as `names`:
// steps of a range input, a list, or any number of boxes.
function stops(model, el) {
  const values = model.get('values');
  const limits = {min: '0', max: String(values.length - 1), step: '1'};
  const {label, slider, output} = slide(el, unique('ofa-stops'), limits);
  label.textContent = model.get('description');
  slider.addEventListener('input', () => send(model, values[Number(slider.value)]));
  return follow(model, 'change:value', () => {
    const at = values.indexOf(model.get('value'));
    slider.value = String(at);
    output.textContent = model.get('names')[at];
    slider.setAttribute('aria-valuetext', model.get('names')[at]);
  });
}

function select(model, el) {
  const id = unique('ofa-select');
  const values = model.get('values');
  const row = element('div', {class: 'ofa-range'}, el);
  element('label', {for: id, text: model.get('description')}, row);
  const list = element('select', {id, ...QUIET}, row);
  model.get('names').forEach((text, i) => element('option', {value: String(i), text}, list));
  list.addEventListener('change', () => send(model, values[list.selectedIndex]));
  return follow(model, 'change:value', () => {
    list.selectedIndex = values.indexOf(model.get('value'));
  });
}

function checks(model, el) {
  const values = model.get('values');
  const box = element('fieldset', {class: 'ofa-checks'}, el);
  element('legend', {text: model.get('description')}, box);
  const boxes = model.get('names').map((text) => {
    const label = element('label', {}, box);
    const check = element('input', {type: 'checkbox', ...QUIET}, label);
    element('span', {text}, label);
    check.addEventListener('change', () => send(model, values.filter((_, i) => boxes[i].checked)));
    return check;
  });
  return follow(model, 'change:value', () => {
    boxes.forEach((check, i) => { check.checked = model.get('value').includes(values[i]); });
  });
}

function strip(model, el) {
  const name = unique('ofa-strip');
  const box = element('fieldset', {class: 'ofa-strip'}, el);
  element('legend', {text: model.get('description')}, box);
  const radios = model.get('images').map((image, i) => {
    const label = element('label', {}, box);
    const radio = element('input', {type: 'radio', name, value: String(i), ...QUIET}, label);
    thumbnail(image, label);
    element('span', {text: model.get('names')[i]}, label);
    radio.addEventListener('change', () => send(model, i));
    return radio;
  });
  return follow(model, 'change:value', () => {
    radios.forEach((radio, i) => { radio.checked = i === model.get('value'); });
  });
}

// A button that cannot be used now keeps the focus,
// or a reader without a mouse would be thrown out of the widget.
function buttons(model, el) {
  const attributes = {class: 'ofa-buttons', role: 'group', 'aria-label': model.get('description')};
  const row = element('div', attributes, el);
  const nodes = model.get('names').map((_, i) => {
    const node = element('button', {type: 'button', ...QUIET}, row);
    node.addEventListener('click', () => {
      if (model.get('enabled')[i]) model.send({pressed: model.get('names')[i]});
    });
    return node;
  });
  return follow(model, 'change', () => {
    nodes.forEach((node, i) => {
      node.textContent = model.get('names')[i];
      node.setAttribute('aria-disabled', String(!model.get('enabled')[i]));
    });
  });
}

// Which control a model is: a choice says so, the others are known by what they have.
function control(model) {
  const kinds = {stops, select, checks};
  if (model.get('kind')) return kinds[model.get('kind')];
  if (model.get('images')) return strip;
  return model.get('names') ? buttons : range;
}

export default {render: ({model, el}) => control(model)(model, el)};

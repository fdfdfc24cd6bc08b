// The controls of ofa_learn.widgets and ofa_learn.live, for anywidget: a labelled range input, a strip of images to pick
// from, and a row of buttons (after shared.js).
// They are native inputs, so keys and screen readers work as everywhere. QUIET holds JupyterLab's shortcuts off, or an
// arrow key would move to the next cell; it must be on the input itself, where JupyterLab begins to look.
const QUIET = {'data-lm-suppress-shortcuts': 'true'};

// anywidget loads this file anew for every control, so a counter would start at 0 each time.
const unique = (name) => `${name}-${Math.random().toString(36).slice(2)}`;

function send(model, value) {
  model.set('value', value);
  model.save_changes();
}

function range(model, el) {
  const id = unique('ofa-range'), row = element('div', {class: 'ofa-range'}, el);
  const label = element('label', {for: id}, row), slider = element('input', {type: 'range', id, ...QUIET}, row), output = element('output', {for: id}, row);
  function show() {
    const step = model.get('step'), text = model.get('value').toFixed(Math.max(0, Math.ceil(-Math.log10(step))));
    for (const name of ['min', 'max', 'step']) slider.setAttribute(name, String(model.get(name)));
    slider.value = String(model.get('value'));
    label.textContent = model.get('description');
    output.textContent = text;
    slider.setAttribute('aria-valuetext', text);
  }
  slider.addEventListener('input', () => send(model, Number(slider.value)));
  model.on('change', show);
  show();
  return () => model.off('change', show);
}

// For ofa_learn.explorers, three ways to choose out of `values`, shown as `names`: steps of a range input, a list, or any number of boxes.
function stops(model, el) {
  const id = unique('ofa-stops'), row = element('div', {class: 'ofa-range'}, el), values = model.get('values');
  element('label', {for: id, text: model.get('description')}, row);
  const slider = element('input', {type: 'range', id, min: '0', max: String(values.length - 1), step: '1', ...QUIET}, row), output = element('output', {for: id}, row);
  function show() {
    const at = values.indexOf(model.get('value'));
    slider.value = String(at);
    output.textContent = model.get('names')[at];
    slider.setAttribute('aria-valuetext', model.get('names')[at]);
  }
  slider.addEventListener('input', () => send(model, values[Number(slider.value)]));
  model.on('change:value', show);
  show();
  return () => model.off('change:value', show);
}

function select(model, el) {
  const id = unique('ofa-select'), row = element('div', {class: 'ofa-range'}, el), values = model.get('values');
  element('label', {for: id, text: model.get('description')}, row);
  const list = element('select', {id, ...QUIET}, row);
  model.get('names').forEach((text, i) => element('option', {value: String(i), text}, list));
  const show = () => { list.selectedIndex = values.indexOf(model.get('value')); };
  list.addEventListener('change', () => send(model, values[list.selectedIndex]));
  model.on('change:value', show);
  show();
  return () => model.off('change:value', show);
}

function checks(model, el) {
  const box = element('fieldset', {class: 'ofa-checks'}, el), values = model.get('values');
  element('legend', {text: model.get('description')}, box);
  const boxes = model.get('names').map((text) => {
    const label = element('label', {}, box), check = element('input', {type: 'checkbox', ...QUIET}, label);
    element('span', {text}, label);
    check.addEventListener('change', () => send(model, values.filter((_, i) => boxes[i].checked)));
    return check;
  });
  const show = () => boxes.forEach((check, i) => { check.checked = model.get('value').includes(values[i]); });
  model.on('change:value', show);
  show();
  return () => model.off('change:value', show);
}

function strip(model, el) {
  const name = unique('ofa-strip'), box = element('fieldset', {class: 'ofa-strip'}, el);
  element('legend', {text: model.get('description')}, box);
  const radios = model.get('images').map((image, i) => {
    const label = element('label', {}, box), radio = element('input', {type: 'radio', name, value: String(i), ...QUIET}, label);
    thumbnail(image, label);
    element('span', {text: model.get('names')[i]}, label);
    radio.addEventListener('change', () => send(model, i));
    return radio;
  });
  const show = () => radios.forEach((radio, i) => { radio.checked = i === model.get('value'); });
  model.on('change:value', show);
  show();
  return () => model.off('change:value', show);
}

// A button that cannot be used now keeps the focus, or a reader without a mouse would be thrown out of the widget.
function buttons(model, el) {
  const row = element('div', {class: 'ofa-buttons', role: 'group', 'aria-label': model.get('description')}, el);
  const nodes = model.get('names').map((_, i) => {
    const node = element('button', {type: 'button', ...QUIET}, row);
    node.addEventListener('click', () => { if (model.get('enabled')[i]) model.send({pressed: model.get('names')[i]}); });
    return node;
  });
  const show = () => nodes.forEach((node, i) => {
    node.textContent = model.get('names')[i];
    node.setAttribute('aria-disabled', String(!model.get('enabled')[i]));
  });
  model.on('change', show);
  show();
  return () => model.off('change', show);
}

const named = {stops, select, checks};
export default {render: ({model, el}) => (named[model.get('kind')] ?? (model.get('images') ? strip : model.get('names') ? buttons : range))(model, el)};

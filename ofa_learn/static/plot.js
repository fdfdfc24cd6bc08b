// The figure of ofa_learn.widgets, for anywidget (after shared.js, figure.js, views.js): `traces` and `look` are
// plotly's data and layout. Where there is a `view`, they are the figure as it was first drawn, and the view
// computes what moves from what is `given` and from the controls, `hands`, before the kernel knows of a move.

// plotly.js, once a page and not once a figure: the first figure takes it out of the widget `engine`,
// which holds its text. As a module of its own it leaves alone whatever `Plotly` the page has already.
async function load(model) {
  const before = window.Plotly;
  const id = model.get('engine').slice('IPY_MODEL_'.length);
  const engine = await model.widget_manager.get_model(id);
  const parts = ['const module = {exports: {}};\n', engine.get('code'), '\nexport default module.exports;'];
  const url = URL.createObjectURL(new Blob(parts, {type: 'text/javascript'}));
  try {
    return (await import(url)).default;
  } finally {
    URL.revokeObjectURL(url);
    if (before) {
      window.Plotly = before;
    } else {
      delete window.Plotly;
    }
  }
}

function plotly(model) {
  window.__ofa_plotly ??= load(model).catch((error) => {
    window.__ofa_plotly = undefined;
    throw error;
  });
  return window.__ofa_plotly;
}

// The models of the controls that a view looks at, by name.
async function handsOf(model) {
  const found = Object.entries(model.get('hands')).map(async ([name, reference]) => (
    [name, await model.widget_manager.get_model(reference.slice('IPY_MODEL_'.length))]
  ));
  return Object.fromEntries(await Promise.all(found));
}

async function render({model, el}) {
  const node = element('div', {role: 'img'}, el);
  const view = views[model.get('view')];
  let hands = {};
  let place = null;

  function figure() {
    const drawn = {data: model.get('traces'), layout: model.get('look')};
    if (!view) return drawn;
    const values = Object.fromEntries(Object.entries(hands).map(([name, hand]) => [name, hand.get('value')]));
    return view(drawn, imageState(model.get('given'), values));
  }

  function later() {
    if (!place) return;
    const {data, layout} = figure();
    node.style.minHeight = `${layout.height}px`;
    node.setAttribute('aria-label', [layout.title?.text, layout.meta?.caption].filter(Boolean).join('. '));
    if (!node.clientWidth) return;  // in a hidden panel; the observer draws when it is shown
    // uirevision: the reader's zoom and hidden traces stay.
    place.show({data, layout: {...layout, width: node.clientWidth, uirevision: 'kept'}});
  }

  const watch = new ResizeObserver(() => {
    if (node.clientWidth !== node._fullLayout?.width) later();
  });
  let gone = false;
  node.style.minHeight = `${model.get('look').height}px`;
  Promise.all([plotly(model), handsOf(model)]).then(([Plotly, found]) => {
    if (gone) return;
    hands = found;
    place = stage(Plotly, node, {displayModeBar: false});
    for (const hand of Object.values(hands)) hand.on('change:value', later);
    model.on('change:traces change:look', later);
    watch.observe(node);
    later();
  });
  return () => {
    gone = true;
    watch.disconnect();
    model.off('change:traces change:look', later);
    for (const hand of Object.values(hands)) hand.off('change:value', later);
    place?.end();
  };
}

export default {render};

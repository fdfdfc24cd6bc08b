// The figure of ofa_learn.widgets, for anywidget (after shared.js, figure.js, views.js): `traces` and `look` are
// plotly's data and layout, as the kernel drew them in its `turn`. Where there is a `view`, it computes what moves
// from what is `given` and from the controls, `hands`, before the kernel knows of a move. What a view is given may
// be a table, which the page asks for when the hand rests; until it is there, the kernel draws.

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
  let asking = 0;

  const drawn = () => ({data: model.get('traces'), layout: model.get('look')});

  // The figure now, where the view knows it.
  function known() {
    const given = model.get('given');
    if (!view || !Object.keys(given).length) return null;
    const values = Object.fromEntries(Object.entries(hands).map(([name, hand]) => [name, hand.get('value')]));
    try {
      return view(drawn(), given, values);
    } catch (fault) {  // the control's value has to reach the kernel, which can draw
      console.error(fault);
      return null;
    }
  }

  function ask(after) {
    clearTimeout(asking);
    if (view) asking = setTimeout(() => model.send({wants: 'table'}), after);
  }

  // A control has moved. What the view does not know, the kernel will draw.
  function moves() {
    const figure = known();
    if (figure) {
      show(figure);
    } else {
      ask(REST);
    }
  }

  // The kernel has drawn, or has sent a table.
  function told() {
    const figure = known();
    show(figure ?? drawn());
    if (!figure) ask(REST);
  }

  function heard({more}) {
    if (more) ask(0);
  }

  function show({data, layout}) {
    node.style.minHeight = `${layout.height}px`;
    node.setAttribute('aria-label', [layout.title?.text, layout.meta?.caption].filter(Boolean).join('. '));
    if (!node.clientWidth) return;  // in a hidden panel; the observer draws when it is shown
    // uirevision: the reader's zoom and hidden traces stay.
    const own = {width: node.clientWidth, uirevision: 'kept', autotypenumbers: 'strict'};
    place.show({data, layout: {...layout, ...own}});
  }

  const watch = new ResizeObserver(() => {
    if (node.clientWidth !== node._fullLayout?.width) told();
  });
  let gone = false;
  node.style.minHeight = `${model.get('look').height}px`;
  Promise.all([plotly(model), handsOf(model)]).then(([Plotly, found]) => {
    if (gone) return;
    hands = found;
    place = stage(Plotly, node, {displayModeBar: false});
    for (const hand of Object.values(hands)) hand.on('change:value', moves);
    model.on('change:turn change:given', told);
    model.on('msg:custom', heard);
    watch.observe(node);
    told();
  });
  return () => {
    gone = true;
    watch.disconnect();
    clearTimeout(asking);
    model.off('change:turn change:given', told);
    model.off('msg:custom', heard);
    for (const hand of Object.values(hands)) hand.off('change:value', moves);
    place?.end();
  };
}

export default {render};

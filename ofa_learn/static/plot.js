// The figure of ofa_learn.widgets, for anywidget: `traces` and `look` are plotly's data and layout,
// drawn anew when they change (after shared.js).

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

async function render({model, el}) {
  const node = element('div', {role: 'img'}, el);
  let frame = 0;
  let Plotly = null;
  let gone = false;

  function draw() {
    frame = 0;
    if (gone || !node.clientWidth) return;  // in a hidden panel; the observer draws when it is shown
    // plotly writes into what it draws, so it gets a copy.
    const {traces, look} = structuredClone({traces: model.get('traces'), look: model.get('look')});
    // uirevision: the reader's zoom and hidden traces stay.
    Object.assign(look, {width: node.clientWidth, uirevision: 'kept'});
    Plotly.react(node, traces, look, {displayModeBar: false});
  }

  // Many changes, one drawing: the newest.
  function later() {
    if (Plotly && !frame) frame = requestAnimationFrame(draw);
  }

  function label() {
    const look = model.get('look');
    node.style.minHeight = `${look.height}px`;
    node.setAttribute('aria-label', [look.title?.text, look.meta?.caption].filter(Boolean).join('. '));
    later();
  }

  const watch = new ResizeObserver(() => {
    if (node.clientWidth !== node._fullLayout?.width) later();
  });
  watch.observe(node);
  model.on('change:traces', later);
  model.on('change:look', label);
  label();
  plotly(model).then((loaded) => {
    Plotly = loaded;
    later();
  });
  return () => {
    gone = true;
    watch.disconnect();
    model.off('change:traces', later);
    model.off('change:look', label);
    if (node._fullLayout) Plotly.purge(node);
  };
}

export default {render};

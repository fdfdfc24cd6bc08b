// A figure under the hand, for widgets (plot.js) and pages (pages.js) alike. plotly takes tens of milliseconds
// to draw a figure, most of them for what did not change: axes, legend, margins. So plotly draws the figure
// once; a move that changes only arrays and the title is painted into its SVG at once, in a millisecond, and
// plotly takes the numbers over when the hand rests. Whatever else changes, plotly draws.
const REST = 250;  // milliseconds without a move
const MOVING = ['x', 'y', 'text'];
const SAID = ['customdata', 'hovertemplate'];  // only shown by pointing

const same = (a, b) => a === b || JSON.stringify(a) === JSON.stringify(b);

const changed = (a, b) => [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((k) => !same(a[k], b[k]));

// Whether two layouts differ in no more than their title.
function onlyTitle(a, b) {
  const free = (title) => ({...title, text: ''});
  return changed(a, b).every((k) => k === 'meta' || (k === 'title' && same(free(a.title), free(b.title))));
}

const px = (v) => v.toFixed(2);

// The pixels of a trace's points; null where it has gaps or its axes are no plain ones.
function points(calculated, trace) {
  const {xaxis, yaxis} = calculated.axes;
  const places = trace.x.map((x, i) => [xaxis.r2p(x), yaxis.r2p(trace.y[i])]);
  return places.flat().every(Number.isFinite) ? places : null;
}

const joined = (places) => `M${places.map(([x, y]) => `${px(x)},${px(y)}`).join('L')}`;

// What has to be done to show a scatter trace at new places; null where plotly has to draw.
function scatter(calculated, trace) {
  const group = calculated.group;
  const places = points(calculated, trace);
  if (!places || trace.error_x || trace.error_y) return null;
  const marks = [...group.querySelectorAll('.points > path.point')];
  const texts = [...group.querySelectorAll('.text > .textpoint')];
  if (marks.length && marks.length !== places.length) return null;
  if (texts.length && (texts.length !== places.length || !trace.text)) return null;
  const lines = [...group.querySelectorAll('path.js-line')];
  const fill = group.querySelector('path.js-fill');
  if (lines.length > 1 || (lines.length && places.length < 2)) return null;
  return () => {
    if (lines.length) lines[0].setAttribute('d', joined(places));
    if (fill) fill.setAttribute('d', `${joined(places)}Z`);
    marks.forEach((mark, i) => mark.setAttribute('transform', `translate(${places[i].map(px)})`));
    texts.forEach((text, i) => {
      const node = text.querySelector('text');
      node.setAttribute('x', px(places[i][0]));
      node.setAttribute('y', px(places[i][1]));
      node.textContent = trace.text[i];
    });
  };
}

// Bars stand side by side on zero, or on one another away from it; `stacks` holds how far they reach so far.
function bars(calculated, trace, stacks) {
  const {xaxis, yaxis} = calculated.axes;
  const nodes = [...calculated.group.querySelectorAll('.point > path')];
  if (nodes.length !== trace.y.length || !trace.y.every(Number.isFinite)) return null;
  const drawn = trace.y.map((y, i) => {
    const {p0, p1, p} = calculated.points[i];
    const key = `${p}${y < 0 ? '-' : '+'}`;
    const from = stacks ? stacks[key] ?? 0 : 0;
    if (stacks) stacks[key] = from + y;
    const [left, right] = [xaxis.c2p(p0, true), xaxis.c2p(p1, true)];
    const [low, high] = [yaxis.c2p(from, true), yaxis.c2p(from + y, true)];
    return `M${px(left)},${px(low)}V${px(high)}H${px(right)}V${px(low)}Z`;
  });
  if (drawn.some((d) => d.includes('NaN'))) return null;
  return () => nodes.forEach((node, i) => node.setAttribute('d', drawn[i]));
}

// What plotly knows of a drawn trace.
function known(node, i) {
  const calculated = node.calcdata?.[i];
  const trace = calculated?.[0]?.trace;
  const group = calculated?.[0]?.node3?.node();
  const subplot = trace && node._fullLayout._plots[(trace.xaxis ?? 'x') + (trace.yaxis ?? 'y')];
  if (!group || !subplot) return null;
  const axes = {xaxis: subplot.xaxis, yaxis: subplot.yaxis};
  return {points: calculated, group, axes, trace};
}

// Paint a move; false where plotly has to draw the figure.
function paint(node, before, next) {
  const {data, layout} = next;
  if (data.length !== before.data.length || !onlyTitle(before.layout, layout)) return false;
  const title = node.querySelector('.gtitle');
  const retitled = !same(before.layout.title, layout.title);
  if (retitled && (!title || /[<&]/.test(layout.title.text))) return false;
  const strokes = [];
  const stacks = layout.barmode === 'relative' ? {} : null;
  for (const [i, trace] of data.entries()) {
    const differs = changed(before.data[i], trace);
    if (!differs.every((k) => MOVING.includes(k) || SAID.includes(k))) return false;
    const moves = differs.some((k) => MOVING.includes(k));
    const hidden = (node._fullData?.[i]?.visible ?? true) !== true;
    if (hidden || !(moves || (stacks && trace.type === 'bar'))) continue;
    const calculated = known(node, i);
    if (!calculated) return false;
    const {xaxis, yaxis} = calculated.axes;  // an axis that plotly fits to its data has to be fitted
    if (differs.includes('y') && yaxis.autorange && yaxis.type !== 'category') return false;
    if (differs.includes('x') && xaxis.autorange && xaxis.type !== 'category') return false;
    let stroke = null;
    if (trace.type === 'bar') {
      stroke = differs.includes('x') ? null : bars(calculated, trace, stacks);
    } else if (trace.type === 'scatter' && trace.x.length === before.data[i].x.length) {
      stroke = scatter(calculated, trace);
    }
    if (!stroke) return false;
    strokes.push(stroke);
  }
  strokes.forEach((stroke) => stroke());
  if (retitled) title.textContent = layout.title.text;
  return true;
}

// What a reader of the page finds in plotly's own arrays, also while the hand moves.
function note(node, {data, layout}) {
  data.forEach((trace, i) => MOVING.forEach((k) => { if (trace[k]) node.data[i][k] = trace[k]; }));
  if (layout.title) node.layout.title.text = layout.title.text;
}

// A place where figures follow one another. What can be painted is painted at once; plotly draws once a frame
// at most, and the newest wins.
function stage(Plotly, node, config) {
  let wanted = null;
  let shown = null;  // what the reader sees
  let frame = 0;
  let rest = 0;

  function draw() {
    clearTimeout(rest);
    // plotly writes into what it draws, so it gets a copy.
    const {data, layout} = structuredClone(shown);
    Plotly.react(node, data, layout, config);
  }

  function follow() {
    const painted = shown && paint(node, shown, wanted);
    shown = wanted;
    if (painted) {
      note(node, shown);
      clearTimeout(rest);
      rest = setTimeout(draw, REST);
      return;
    }
    draw();
    frame = requestAnimationFrame(() => {
      frame = 0;
      if (wanted !== shown) follow();
    });
  }

  return {
    show(next) {
      wanted = next;
      if (!frame) follow();
    },
    end() {
      cancelAnimationFrame(frame);
      clearTimeout(rest);
      if (node._fullLayout) Plotly.purge(node);
    },
  };
}

// A figure under the hand, for widgets (plot.js) and pages (pages.js) alike. plotly takes tens of milliseconds
// to draw a figure, most of them for what did not change: margins, legend, scales of colours. So plotly draws the
// figure once; a move that changes only values, ranges and words is painted into its SVG at once, in a
// millisecond or two, and plotly takes the numbers over when the hand rests. Whatever else changes, plotly draws.
const REST = 250;  // milliseconds without a move
const LEAST = 150;  // pixels from the top of what is drawn to its bottom, without titles and legend
const MOVING = ['x', 'y', 'z', 'text'];
const SAID = ['customdata', 'hovertemplate'];  // only shown by pointing
const WITHIN = {error_y: ['array'], marker: ['opacity']};  // of what is drawn too, what may change

const same = (a, b) => a === b || JSON.stringify(a) === JSON.stringify(b);

const changed = (a, b) => [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((k) => !same(a[k], b[k]));

// Whether two things differ in no more than these.
const alike = (a, b, free) => Boolean(a && b) && changed(a, b).every((k) => free.includes(k));

const px = (v) => v.toFixed(2);

const plain = (text) => typeof text === 'string' && !/[<&]/.test(text);  // without markup

const AXIS = /^[xy]axis\d*$/;

// An axis as it will stand: `at` takes a value to pixels from its beginning. A range that has not changed since
// plotly drew is plotly's own, for the reader may have zoomed.
function standing(node, name, drawn, shown, next) {
  const axis = node._fullLayout[name];
  const range = (layout) => layout[name]?.range;
  const ends = same(range(drawn), range(next)) ? axis?.range : range(next);
  if (!ends || !['linear', 'category'].includes(axis.type)) return null;
  const [from, to] = ends;
  const number = (v) => {
    if (axis.type === 'linear' || typeof v === 'number') return v;
    return axis._categories.includes(v) ? axis._categories.indexOf(v) : NaN;
  };
  const part = (v) => (number(v) - from) / (to - from);
  const at = (v) => axis._length * (name[0] === 'x' ? part(v) : 1 - part(v));
  return {axis, at, from, to, moves: !same(range(shown), range(next))};
}

// The ticks of an axis: those that it is given, or plotly's choice, about ten at most at 1, 2, or 5 times a
// power of ten; null where plotly chooses otherwise.
function ticksOf({axis, from, to}, {tickvals, ticktext}) {
  const within = (v) => v >= Math.min(from, to) - 1e-9 && v <= Math.max(from, to) + 1e-9;
  if (tickvals) return tickvals.map((value, i) => ({value, text: ticktext[i]})).filter((t) => within(t.value));
  if (axis.type !== 'linear' || axis.tickmode !== 'auto') return null;
  const room = axis._length / (axis._id[0] === 'y' ? 40 : 80);
  const rough = Math.abs(to - from) / (Math.min(Math.max(room, 4), 9) + 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((k, i) => i && k * power >= rough);
  if (step < 1e-3 || step >= 1e4) return null;  // plotly writes such numbers in ways of its own
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const first = Math.ceil(Math.min(from, to) / step - 1e-6);
  const last = Math.floor(Math.max(from, to) / step + 1e-6);
  return Array.from({length: last - first + 1}, (_, i) => {
    const value = Number(((first + i) * step).toFixed(digits));
    return {value, text: String(value).replace('-', '−')};
  });
}

// As many nodes as there are ticks: the last one is copied, or those that are over go.
function enough(nodes, count) {
  nodes.slice(count).forEach((over) => over.remove());
  const kept = nodes.slice(0, count);
  while (kept.length && kept.length < count) {
    const last = kept.at(-1);
    const copy = last.cloneNode(true);
    last.after(copy);
    copy.__data__ = last.__data__;  // d3 keeps there what it drew
    kept.push(copy);
  }
  return kept;
}

// Ticks, their words and the lines of the grid; null where plotly has to draw them.
function ruler(node, stands, layout) {
  const {axis, at} = stands;
  const id = axis._id;
  const ticks = ticksOf(stands, layout);
  const subplot = node.querySelector(`.cartesianlayer > .subplot.${axis._mainSubplot}`);
  if (!ticks || !subplot || !ticks.every(({text}) => plain(text))) return null;
  const kinds = [`.gridlayer path.${id}grid`, `path.${id}tick`, `g.${id}tick`];
  const found = kinds.map((kind) => [...subplot.querySelectorAll(kind)]);
  if (ticks.length && !found[2].length) return null;
  return () => found.forEach((nodes) => enough(nodes, ticks.length).forEach((mark, i) => {
    const {value, text} = ticks[i];
    const place = px(axis._offset + at(value));
    const moved = id[0] === 'x' ? `translate(${place},0)` : `translate(0,${place})`;
    const words = mark.querySelector('text');
    mark.__data__ = {...mark.__data__, x: value, text};
    (words ?? mark).setAttribute('transform', moved);
    if (words) words.textContent = text;
  }));
}

// Words in the place of others; null where there are none yet, or where they are more than letters.
function written(place, text) {
  return place && plain(text) ? () => { place.textContent = text; } : null;
}

// Rectangles of the layout, each between two values of an axis or from one end of the figure to the other.
function rectangle(node, i, {type, xref = 'x', yref = 'y', x0, x1, y0, y1}, axes) {
  const path = node.querySelector(`.shapelayer path[data-index="${i}"]`);
  if (!path || type !== 'rect') return null;
  const {l, t, w, h} = node._fullLayout._size;
  const ends = (ref, values, onPaper) => {
    if (ref === 'paper') return values.map(onPaper);
    const stands = axes(ref);
    return stands ? values.map((v) => stands.axis._offset + stands.at(v)) : [NaN];
  };
  const [left, right] = ends(xref, [x0, x1], (v) => l + w * v);
  const [low, high] = ends(yref, [y0, y1], (v) => t + h * (1 - v));
  if (![left, right, low, high].every(Number.isFinite)) return null;
  const drawn = `M${px(left)},${px(low)}H${px(right)}V${px(high)}H${px(left)}Z`;
  return () => path.setAttribute('d', drawn);
}

// Other words in a box at the figure's right end, as many lines as before; null where plotly has to draw.
function boxed(node, i, {text, xanchor}) {
  const note = node.querySelector(`.infolayer > .annotation[data-index="${i}"] > .annotation-text-g`);
  const [turned, full] = [note?.getAttribute('transform'), node._fullLayout.annotations[i]];
  const middle = /^rotate\(0,([\d.]+),([\d.]+)\)$/.exec(turned)?.slice(1).map(Number);
  const spans = [...(note?.querySelectorAll('tspan.line') ?? [])];
  const lines = text.split('<br>');
  const fits = lines.length > 1 && lines.length === spans.length && lines.every(plain);
  if (!middle || !fits || xanchor !== 'right') return null;
  const [box, words] = [note.querySelector('rect.bg'), note.querySelector('text')];
  const around = 2 * (full.borderpad + full.borderwidth);
  return () => {
    spans.forEach((span, k) => { span.textContent = lines[k]; });
    const inner = words.getBoundingClientRect().width + around;
    const width = Math.round(inner);
    const before = Number(box.getAttribute('width')) + full.borderwidth;
    const x = middle[0] + (before - width) / 2;  // the right end stays
    const [, y] = note.firstElementChild.getAttribute('transform').match(/,([\d.]+)/);
    box.setAttribute('width', String(width - full.borderwidth));
    [words, ...spans].forEach((part) => part.setAttribute('x', String(inner / 2)));
    note.setAttribute('transform', `rotate(0,${px(x)},${middle[1]})`);
    note.firstElementChild.setAttribute('transform', `translate(${Math.round(x - width / 2)},${y})`);
  };
}

// What shows another layout, as functions; with null among them where plotly has to draw.
function layoutStrokes(node, before, after, axes) {
  return changed(before, after).flatMap((k) => {
    const [a, b] = [before[k], after[k]];
    if (k === 'meta') return [];
    if (k === 'title' && alike(a, b, ['text'])) return [written(node.querySelector('.gtitle'), b.text)];
    if (k === 'shapes' && a?.length === b?.length) {
      const still = a.every((shape, i) => alike(shape, b[i], ['x0', 'x1', 'y0', 'y1']));
      return still ? b.map((shape, i) => rectangle(node, i, shape, axes)) : [null];
    }
    if (k === 'annotations' && a?.length === b?.length) {
      const still = a.every((note, i) => alike(note, b[i], ['text']));
      return still ? b.map((note, i) => same(note, a[i]) ? undefined : boxed(node, i, note)) : [null];
    }
    if (!AXIS.test(k) || !alike(a, b, ['range', 'tickvals', 'ticktext', 'title'])) return [null];
    const id = k.replace('axis', '');
    const stands = axes(id);
    const out = [stands && ruler(node, stands, b)];
    if (same(a.title, b.title)) return out;
    if (!alike(a.title, b.title, ['text'])) return [null];
    return [...out, written(node.querySelector(`.g-${id}title text`), b.title.text)];
  });
}

const joined = (places) => `M${places.map(([x, y]) => `${px(x)},${px(y)}`).join('L')}`;

// What has to be done to show a scatter trace at new places; null where plotly has to draw.
function scatter({group, xaxis, yaxis}, trace) {
  const places = trace.x.map((x, i) => [xaxis.at(x), yaxis.at(trace.y[i])]);
  if (!places.flat().every(Number.isFinite)) return null;  // a gap
  const found = (kind) => [...group.querySelectorAll(kind)];
  const [marks, texts] = [found('.points > path.point'), found('.text > .textpoint')];
  const [lines, whiskers] = [found('path.js-line'), found('.errorbar > path.yerror')];
  const fill = group.querySelector('path.js-fill');
  if ([marks, texts, whiskers].some((nodes) => nodes.length && nodes.length !== places.length)) return null;
  if (texts.length && !trace.text) return null;
  if (whiskers.length ? !trace.error_y?.array : trace.error_y || trace.error_x) return null;
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
    whiskers.forEach((whisker, i) => {
      const {array, width} = trace.error_y;
      const [high, low] = [array[i], -array[i]].map((e) => px(yaxis.at(trace.y[i] + e)));
      const hat = `h${2 * width}`;
      const drawn = `M${px(places[i][0] - width)},${high}${hat}m-${width},0V${low}m-${width},0${hat}`;
      whisker.setAttribute('d', drawn);
    });
  };
}

// Bars stand side by side on zero, or on one another away from it; `stacks` holds how far they reach so far.
function bars({points, group, xaxis, yaxis}, trace, stacks) {
  const nodes = [...group.querySelectorAll('.point > path')];
  if (nodes.length !== trace.y.length || !trace.y.every(Number.isFinite)) return null;
  const drawn = trace.y.map((y, i) => {
    const {p0, p1, p} = points[i];
    const key = `${p}${y < 0 ? '-' : '+'}`;
    const from = stacks ? stacks[key] ?? 0 : 0;
    if (stacks) stacks[key] = from + y;
    const [left, right] = [xaxis.at(p0), xaxis.at(p1)].map(px);
    const [low, high] = [yaxis.at(from), yaxis.at(from + y)].map(px);
    return `M${left},${low}V${high}H${right}V${low}Z`;
  });
  if (drawn.some((d) => d.includes('NaN'))) return null;
  const opacity = trace.marker?.opacity;
  return () => nodes.forEach((node, i) => {
    node.setAttribute('d', drawn[i]);
    if (Array.isArray(opacity)) node.style.opacity = opacity[i];
  });
}

// A function from values to colours [red, green, blue, 255], by a scale of hexadecimal ones.
function colouring({colorscale, zmin, zmax}) {
  const stops = colorscale.map(([at, hex]) => [at, [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))]);
  return (z) => {
    const part = Math.min(Math.max((z - zmin) / (zmax - zmin), 0), 1);
    const above = Math.max(stops.findIndex(([at]) => at >= part), 1);
    const [[low, from], [high, to]] = stops.slice(above - 1, above + 1);
    const share = (part - low) / (high - low);
    return [...from.map((c, i) => Math.round(c + share * (to[i] - c))), 255];
  };
}

// A heat map without gaps is an image with a pixel for each field, as plotly draws it too.
function heat({group, xaxis, yaxis}, trace) {
  const image = group.querySelector('image');
  const {z, xgap, ygap, colorscale} = trace;
  const width = z[0]?.length;
  const hex = Array.isArray(colorscale) && colorscale.every(([, colour]) => /^#[0-9a-f]{6}$/i.test(colour));
  if (!image || !width || xgap || ygap || !hex) return null;
  const colour = colouring(trace);
  const canvas = element('canvas', {width, height: z.length});
  const context = canvas.getContext('2d');
  const pixels = context.createImageData(width, z.length);
  [...z].reverse().flat().forEach((v, i) => { if (v !== null) pixels.data.set(colour(v), 4 * i); });
  context.putImageData(pixels, 0, 0);
  const [left, right] = [xaxis.at(-0.5), xaxis.at(width - 0.5)];
  const [low, high] = [yaxis.at(-0.5), yaxis.at(z.length - 0.5)];
  const box = {x: left, width: right - left, y: high, height: low - high};
  return () => {
    for (const [name, v] of Object.entries(box)) image.setAttribute(name, px(v));
    image.href.baseVal = canvas.toDataURL();
  };
}

// What plotly knows of a drawn trace.
function known(node, i, axes) {
  const points = node.calcdata?.[i];
  const trace = points?.[0]?.trace;
  const [xaxis, yaxis] = trace ? [axes(trace.xaxis ?? 'x'), axes(trace.yaxis ?? 'y')] : [];
  if (!xaxis || !yaxis) return null;
  const map = () => node._fullLayout._plots[xaxis.axis._id + yaxis.axis._id].plot.node().querySelector('.hm');
  const group = trace.type === 'heatmap' ? map() : points[0].node3?.node();
  return group && {points, group, xaxis, yaxis};
}

// What shows another trace: a function; undefined where nothing moves, null where plotly has to draw.
function traceStroke(node, i, before, trace, axes, stacks) {
  const differs = changed(before, trace);
  const may = (k) => MOVING.includes(k) || SAID.includes(k) || alike(before[k], trace[k], WITHIN[k] ?? []);
  if (!differs.every(may)) return null;
  const visible = node._fullData?.[i]?.visible ?? true;
  if (visible === false && differs.some((k) => MOVING.includes(k))) return null;  // it was empty, and may not be now
  if (visible !== true) return undefined;
  const found = known(node, i, axes);
  if (!found) return null;
  const moves = differs.some((k) => !SAID.includes(k)) || found.xaxis.moves || found.yaxis.moves;
  if (!moves && !(stacks && trace.type === 'bar')) return undefined;
  // An axis that plotly fits to its data has to be fitted.
  const fitted = ({axis}) => axis.autorange && (axis.type !== 'category' || trace.type === 'heatmap');
  const fits = (stands, k) => differs.includes(k) && fitted(stands);
  if (fits(found.xaxis, 'x') || fits(found.yaxis, 'y')) return null;
  if (trace.type === 'heatmap') return heat(found, trace);
  if (trace.type === 'bar') return differs.includes('x') ? null : bars(found, trace, stacks);
  const whole = trace.x.length === before.x.length || trace.mode === 'lines';
  return whole && trace.type === 'scatter' ? scatter(found, trace) : null;
}

// Paint a move from what is shown, which plotly drew or which was painted on what it has drawn; false where
// plotly has to draw the figure.
function paint(node, drawn, shown, next) {
  const {data, layout} = next;
  if (data.length !== shown.data.length) return false;
  const cache = {};
  const axes = (id) => {
    const name = `${id[0]}axis${id.slice(1)}`;
    return cache[name] ??= standing(node, name, drawn.layout, shown.layout, layout);
  };
  const stacks = layout.barmode === 'relative' ? {} : null;
  const strokes = layoutStrokes(node, shown.layout, layout, axes);
  for (let i = 0; i < data.length && !strokes.includes(null); i += 1) {
    strokes.push(traceStroke(node, i, shown.data[i], data[i], axes, stacks));
  }
  if (strokes.includes(null)) return false;
  strokes.forEach((stroke) => stroke?.());
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
  let drawn = null;  // what plotly drew last
  let frame = 0;
  let rest = 0;
  let grown = {more: 0};  // by how much a narrow figure is higher, for a legend of many lines

  function draw() {
    clearTimeout(rest);
    // plotly writes into what it draws, so it gets a copy.
    drawn = shown;
    if (grown.width !== node.clientWidth) grown = {width: node.clientWidth, more: 0};
    for (const again of [true, false]) {
      const {data, layout} = structuredClone(shown);
      if (layout.height) layout.height += grown.more;
      Plotly.react(node, data, layout, config);
      const lack = Math.ceil(LEAST - node._fullLayout._size.h);
      if (!again || lack <= 0 || !layout.height || grown.more) break;
      grown.more = lack;
      node.style.height = `${layout.height + lack}px`;
    }
  }

  function follow() {
    const painted = shown && paint(node, drawn, shown, wanted);
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

// On a narrow page the titles of a figure are set in as many lines as they need: plotly cuts what is too long.
// It looks at every figure again after it was drawn, because a control may have changed its titles.
(function () {
  'use strict';

  const NARROW = 640;  // pixels; wider pages are left alone
  const EDGE = 8;
  const LEAST = 120;  // height of what is drawn, without titles and legend

  function wrapped(text, letters) {
    const lines = [''];
    for (const word of text.split(/\s+|<br>/)) {
      const last = lines[lines.length - 1];
      if (last && last.length + 1 + word.length > letters) lines.push(word);
      else lines[lines.length - 1] = last ? `${last} ${word}` : word;
    }
    return lines.join('<br>');
  }

  // The text in lines that fit, or nothing where it fits already.
  function fitting(node, text, room) {
    const width = node ? node.getBoundingClientRect().width : 0;
    if (!text || !width || width <= room) return '';
    const longest = Math.max(...text.split('<br>').map((line) => line.length));
    const set = wrapped(text, Math.max(8, Math.floor(longest * room / width)));
    return set === text ? '' : set;
  }

  function titleOf(plot, change) {
    const box = plot.getBoundingClientRect();
    const node = plot.querySelector('.gtitle');
    const begins = node ? Math.max(node.getBoundingClientRect().left, box.left) : box.left;
    const set = fitting(node, plot.layout.title?.text, box.right - begins - EDGE);
    // From the edge downwards: plotly would hang further lines over what stands below.
    if (set) Object.assign(change, {'title.text': set, 'title.y': 1, 'title.yanchor': 'top', 'title.pad.t': 12});
  }

  function axesOf(plot, change) {
    const box = plot.getBoundingClientRect();
    const titles = Object.keys(plot.layout).filter((key) => /^xaxis\d*$/.test(key)).flatMap((name) => {
      const node = plot.querySelector(`.${name.replace('axis', '')}title`);
      if (!node) return [];
      const {left, right, top} = node.getBoundingClientRect();
      return [{name, node, middle: (left + right) / 2, top}];
    });
    for (const {name, node, middle, top} of titles) {
      const beside = titles.filter((other) => other.name !== name && Math.abs(other.top - top) < 2);
      const apart = beside.map((other) => Math.abs(other.middle - middle));
      const room = Math.min(2 * (middle - box.left), 2 * (box.right - middle), ...apart) - EDGE;
      const set = fitting(node, plot.layout[name].title?.text, room);
      if (set) change[`${name}.title.text`] = set;
    }
  }

  // Of panels side by side the first says what the others would say again, across their neighbours.
  function sharedOf(plot, change) {
    const first = {};
    for (const name of Object.keys(plot.layout).filter((key) => /^yaxis\d*$/.test(key))) {
      const text = plot.layout[name].title?.text;
      const row = `${text} ${plot._fullLayout[name]?.domain}`;
      if (text && plot._fullLayout[name]?.side !== 'right' && first[row]) change[`${name}.title.text`] = '';
      first[row] = true;
    }
  }

  const lines = (text) => (text || '').split('<br>').length - 1;

  // Room above for the lines that were added.
  function roomAbove(plot, change) {
    const titles = change['title.text'] || plot.layout.title?.text;
    const notes = Object.keys(change).filter((key) => key.endsWith('].text')).map((key) => lines(change[key]));
    plot.ofaTop ??= plot._fullLayout.margin.t;
    plot.ofaNotes = Math.max(plot.ofaNotes || 0, ...notes);
    const top = plot.ofaTop + 22 * lines(titles) + 14 * plot.ofaNotes;
    if (top !== plot._fullLayout.margin.t && (lines(titles) || plot.ofaNotes)) change['margin.t'] = top;
  }

  // Where a legend of many lines leaves hardly any room for what it explains, the figure grows.
  function heightOf(plot, change) {
    const {height, _size: room, showlegend} = plot._fullLayout;
    if (!showlegend || room.h >= LEAST || (plot.ofaGrown || 0) >= 4) return;
    plot.ofaGrown = (plot.ofaGrown || 0) + 1;
    change.height = height + LEAST + 40 - room.h;
  }

  // Words that stand side by side, titles of panels or of images, share the width of their row.
  function rowsOf(plot, change) {
    const notes = plot.layout.annotations || [];
    const words = notes.flatMap((note, i) => {
      const node = plot.querySelector(`.annotation[data-index="${i}"] .annotation-text`);
      if (!node || note.showarrow || !note.text) return [];
      const {left, right} = node.getBoundingClientRect();
      return [{note, i, node, middle: (left + right) / 2}];
    });
    for (const {note, i, node, middle} of words) {
      const others = words.filter((other) => other.i !== i && Math.abs(other.note.y - note.y) < 0.01);
      const room = Math.min(...others.map((other) => Math.abs(other.middle - middle))) - 4;
      if (!Number.isFinite(room) || node.getBoundingClientRect().width <= room) continue;
      // Smaller first; if that does not do, in lines.
      const size = note.yref === 'paper' ? 10 : 9;
      const set = note.font?.size === size && fitting(node, note.text, room);
      if (note.font?.size !== size) change[`annotations[${i}].font.size`] = size;
      if (set) change[`annotations[${i}].text`] = set;
    }
  }

  function fit() {
    if (window.innerWidth > NARROW) return;
    for (const plot of document.querySelectorAll('figure.ofa-page .js-plotly-plot')) {
      if (!plot._fullLayout || !plot.clientWidth || plot.closest('details:not([open])')) continue;
      const change = {};
      for (const part of [titleOf, axesOf, sharedOf, rowsOf, roomAbove, heightOf]) part(plot, change);
      if (Object.keys(change).length) Plotly.relayout(plot, change);
    }
  }

  let waiting = false;
  function soon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; fit(); });
  }

  function watch() {
    const drawn = new MutationObserver(soon);
    for (const figure of document.querySelectorAll('figure.ofa-page')) {
      if (window.innerWidth <= NARROW) drawn.observe(figure, {childList: true, subtree: true});
    }
    soon();
  }

  window.addEventListener('resize', soon);
  window.addEventListener('load', watch);
})();

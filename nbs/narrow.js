// On a narrow page the titles of a figure are set in as many lines as they need: plotly cuts what is too long.
// It looks at every figure again after it was drawn, because a control may have changed its titles.
(function () {
  'use strict';

  const NARROW = 640;  // pixels; wider pages are left alone
  const EDGE = 8;

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
    if (set) change['title.text'] = set;
  }

  function axesOf(plot, change) {
    const box = plot.getBoundingClientRect();
    for (const name of Object.keys(plot.layout).filter((key) => /^xaxis\d*$/.test(key))) {
      const node = plot.querySelector(`.${name.replace('axis', '')}title`);
      if (!node) continue;
      const {left, right} = node.getBoundingClientRect();
      const middle = (left + right) / 2;
      const room = 2 * Math.min(middle - box.left, box.right - middle) - EDGE;
      const set = fitting(node, plot.layout[name].title?.text, room);
      if (set) change[`${name}.title.text`] = set;
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

  // Titles of panels that stand side by side share the width.
  function panelsOf(plot, change) {
    const notes = plot.layout.annotations || [];
    const above = notes.map((n, i) => ({n, i})).filter(({n}) => n.yref === 'paper' && !n.showarrow && n.text);
    for (const {n, i} of above) {
      const row = above.filter((other) => Math.abs(other.n.y - n.y) < 0.01).length;
      const node = plot.querySelector(`.annotation[data-index="${i}"] .annotation-text`);
      const set = row > 1 && fitting(node, n.text, plot.clientWidth / (row + 0.5) - EDGE);
      if (set) {
        change[`annotations[${i}].text`] = set;
        change[`annotations[${i}].font.size`] = 10;
      }
    }
  }

  function fit() {
    if (window.innerWidth > NARROW) return;
    for (const plot of document.querySelectorAll('figure.ofa-page .js-plotly-plot')) {
      if (!plot._fullLayout || !plot.clientWidth || plot.closest('details:not([open])')) continue;
      const change = {};
      for (const part of [titleOf, axesOf, panelsOf, roomAbove]) part(plot, change);
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

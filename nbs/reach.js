// On every page of the docs, whoever rendered it: what scrolls sideways can be reached and scrolled by keyboard,
// and figures that were folded away are drawn as wide as their place once they are opened.
(function () {
  'use strict';

  const SCROLLS = 'main pre, main table, main div.math, main math[display=block], main p:has(> math[display=block])';
  const REACHABLE = 'a[href], button, input, select, textarea, [tabindex]';

  // A formula draws in a box of its own, so the box that scrolls may be any of these; only one that does is a stop.
  function reach() {
    for (const node of document.querySelectorAll(SCROLLS)) {
      const hidden = node.scrollWidth <= node.clientWidth || getComputedStyle(node).overflowX === 'visible';
      if (node.dataset.reached && hidden) {
        node.removeAttribute('tabindex');
        delete node.dataset.reached;
      } else if (!hidden && !node.hasAttribute('tabindex') && !node.querySelector(REACHABLE)) {
        node.tabIndex = 0;
        node.dataset.reached = 'yes';
      }
    }
  }

  document.addEventListener('toggle', () => window.dispatchEvent(new Event('resize')), true);
  window.addEventListener('resize', reach);
  window.addEventListener('load', reach);
  reach();
})();

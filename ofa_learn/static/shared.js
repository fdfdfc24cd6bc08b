// What the widgets (controls.js, plot.js) and the page versions (pages.js) have in common;
// their loaders put it in front of them.
function element(tag, attributes, parent) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') {
      node.textContent = value;
    } else {
      node.setAttribute(name, value);
    }
  }
  if (parent) parent.appendChild(node);
  return node;
}

function thumbnail(image, parent) {
  const height = image.length;
  const width = image[0].length;
  const canvas = element('canvas', {width, height, 'aria-hidden': 'true'}, parent);
  const context = canvas.getContext('2d');
  const pixels = context.createImageData(width, height);
  image.flat().forEach((v, i) => pixels.data.set([255 - v, 255 - v, 255 - v, 255], 4 * i));
  context.putImageData(pixels, 0, 0);
}

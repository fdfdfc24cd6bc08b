// plotly.js out of the page itself, where ofa_learn.pages wrote it compressed (zlib, then base 85 as text): a third
// of its size. Python's signs, but for "<", which could begin a tag.
const SIGNS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~';

// Five signs are four bytes; at the end there may be fewer.
function decoded(text) {
  const digit = new Map([...SIGNS].map((sign, i) => [sign.charCodeAt(0), i]));
  const digits = Uint8Array.from({length: 128}, (_, code) => digit.get(code) ?? 0);
  const whole = text.padEnd(5 * Math.ceil(text.length / 5), '~');
  const words = new DataView(new ArrayBuffer(whole.length / 5 * 4));
  for (let i = 0; i < whole.length; i += 5) {
    let word = 0;
    for (let k = i; k < i + 5; k += 1) word = 85 * word + digits[whole.charCodeAt(k)];
    words.setUint32(i / 5 * 4, word);
  }
  return words.buffer.slice(0, words.byteLength - (whole.length - text.length));
}

const CANNOT = 'This browser is too old to unpack the figures of this page: ' +
  'open it in a current Firefox, Chrome, Edge or Safari; words and tables are here as they are.';

// Run plotly.js, then `start`; where the browser cannot, say so in the place of each figure.
async function unpacked(packed, start) {
  try {
    const stream = new Blob([decoded(packed)]).stream().pipeThrough(new DecompressionStream('deflate'));
    element('script', {text: await new Response(stream).text()}, document.head);
  } catch (error) {
    const say = (figure) => figure.prepend(element('p', {role: 'alert', text: CANNOT}));
    document.querySelectorAll('figure.ofa-page').forEach(say);
    return;
  }
  start();
}

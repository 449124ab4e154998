// The PNGs of maps, as service/png.py writes them. A canvas would round 16 bits to 8 and turn palette indices into
// colours.

const GREY = 0;
const PALETTE = 3;
const UP = 2;

/** Decodes a PNG of grey or of palette indices: {width, height, data}; data is a Uint8Array, or of 16-bit grey a
 * Uint16Array. Throws an Error on what the service does not write. */
export async function decodePng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 33 || view.getUint32(0) !== 0x89504e47) throw new Error("not a PNG");
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [bits, color, , , interlaced] = bytes.subarray(24, 29);
  const known = bits === 8 ? color === GREY || color === PALETTE : bits === 16 && color === GREY;
  if (!known || interlaced) throw new Error("a PNG that no map is");
  const packed = new Blob([pixelsOf(bytes, view)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = unfilter(new Uint8Array(await new Response(packed).arrayBuffer()), (width * bits) / 8, height);
  if (bits === 8) return { width, height, data: rows };
  const data = new Uint16Array(width * height);
  for (let i = 0; i < data.length; i++) data[i] = (rows[2 * i] << 8) | rows[2 * i + 1];
  return { width, height, data };
}

/** What is in its chunk IDAT, of which there is one. */
function pixelsOf(bytes, view) {
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    if (view.getUint32(at + 4) === 0x49444154) return bytes.subarray(at + 8, at + 8 + view.getUint32(at));
  }
  throw new Error("a PNG without pixels");
}

/** The rows without their filter bytes: each is the difference to the one above. */
function unfilter(raw, stride, height) {
  if (raw.length !== (stride + 1) * height) throw new Error("a PNG with too few or too many pixels");
  const out = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const from = y * (stride + 1) + 1;
    const to = y * stride;
    if (raw[from - 1] !== UP) throw new Error("a PNG with another filter than Up");
    for (let i = 0; i < stride; i++) out[to + i] = raw[from + i] + (y ? out[to + i - stride] : 0);
  }
  return out;
}

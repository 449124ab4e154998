// PNG pixels as the file has them. A canvas would round 16 bits to 8 and turn palette indices into colours.

const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };

/** Decodes a PNG that is not interlaced: {width, height, depth, channels, data}; data is a Uint8Array, or a
 * Uint16Array where a sample has 16 bits; palette pictures give their indices. */
export async function decodePng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 33 || view.getUint32(0) !== 0x89504e47) throw new Error("not a PNG");
  let header = null;
  const parts = [];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (name === "IHDR") {
      header = {
        width: view.getUint32(at + 8),
        height: view.getUint32(at + 12),
        depth: bytes[at + 16],
        channels: CHANNELS[bytes[at + 17]],
      };
      if (bytes[at + 20]) throw new Error("an interlaced PNG");
    } else if (name === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    else if (name === "IEND") break;
    at += 12 + length;
  }
  const inflated = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(inflated).arrayBuffer());
  return { ...header, data: samples(unfilter(raw, header), header) };
}

/** Undoes the row filters, in place; gives the rows without their filter bytes. */
function unfilter(raw, { width, height, depth, channels }) {
  const stride = Math.ceil((width * depth * channels) / 8);
  const step = Math.max(1, (depth * channels) >> 3);
  const out = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)];
    const from = y * (stride + 1) + 1;
    const to = y * stride;
    for (let i = 0; i < stride; i++) {
      const left = i >= step ? out[to + i - step] : 0;
      const up = y ? out[to + i - stride] : 0;
      let guess = 0;
      if (filter === 1) guess = left;
      else if (filter === 2) guess = up;
      else if (filter === 3) guess = (left + up) >> 1;
      else if (filter === 4) guess = paeth(left, up, y && i >= step ? out[to + i - stride - step] : 0);
      out[to + i] = raw[from + i] + guess;
    }
  }
  return out;
}

function paeth(left, up, corner) {
  const a = Math.abs(up - corner);
  const b = Math.abs(left - corner);
  const c = Math.abs(left + up - 2 * corner);
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function samples(rows, { width, height, depth, channels }) {
  if (depth === 8) return rows;
  const count = width * channels;
  const stride = rows.length / height;
  const out = depth === 16 ? new Uint16Array(count * height) : new Uint8Array(count * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < count; x++) {
      const at = y * stride;
      if (depth === 16) out[y * count + x] = (rows[at + 2 * x] << 8) | rows[at + 2 * x + 1];
      else {
        const bit = x * depth;
        out[y * count + x] = (rows[at + (bit >> 3)] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
      }
    }
  }
  return out;
}

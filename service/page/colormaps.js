// Perceptually uniform colour maps from a few of their colours, far (dark) to near (bright).

const STOPS = {
  viridis: "440154 482576 414487 35608d 2a788e 21908c 22a884 43bf71 7ad151 bbdf27 fde725",
  magma: "000004 140e36 3b0f70 641a80 8c2981 b73779 de4968 f7705c fe9f6d fecf92 fcfdbf",
  inferno: "000004 160b39 420a68 6a176e 932667 bc3754 dd513a f37819 fca50a f6d746 fcffa4",
  cividis: "00204d 00336f 39486b 575c6d 707173 8a8779 a69d75 c4b56c e4cf5b ffea46",
  grey: "111111 eeeeee",
};

export const COLORMAPS = Object.keys(STOPS);

/** The colour [r, g, b] of `t`: 0 is far, 1 is near. */
export function colorAt(name, t) {
  const stops = STOPS[name].split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const at = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  return stops[i].map((low, channel) => Math.round(low + (stops[i + 1][channel] - low) * (at - i)));
}

/** RGBA words (little endian) of every depth in mm; invalid depth is transparent. */
export function depthTable(name, minMm, maxMm) {
  const ramp = Array.from({ length: 256 }, (_, i) => {
    const [r, g, b] = colorAt(name, i / 255);
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
  const table = new Uint32Array(65536);
  const span = Math.max(1, maxMm - minMm);
  for (let mm = 1; mm < 65536; mm++) {
    const near = 1 - Math.min(Math.max((mm - minMm) / span, 0), 1);
    table[mm] = ramp[Math.round(near * 255)];
  }
  return table;
}

/** Round distances in metres for a scale from `min` to `max`, about `count` of them. */
export function ticks(min, max, count = 5) {
  const rough = Math.max(max - min, 1e-3) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let k = Math.ceil(min / step - 1e-9); k * step <= max + 1e-9; k++) found.push(Number((k * step).toFixed(6)));
  return found;
}

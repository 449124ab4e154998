// The flat views: photo, classes and depth, drawn over each other.

import { depthTable } from "./colormaps.js";

const MOST_PIXELS = 1_500_000;

/** Maps as canvases. Those of a huge photo are drawn from every 2nd, 3rd, ... pixel. */
export class Panels {
  constructor() {
    this.answer = null;
    this.picture = null;
    this.highlight = null;
    this.cursor = null;
    this.marks = [];
    this.classes = document.createElement("canvas");
    this.depth = document.createElement("canvas");
    this.confidence = document.createElement("canvas");
    this.dim = document.createElement("canvas");
  }

  /** Shows another answer; `picture` is what drawImage takes, or null where the browser cannot decode the format. */
  set(answer, picture, colors) {
    this.answer = answer;
    this.picture = picture;
    this.step = Math.max(1, Math.ceil(Math.sqrt((answer.width * answer.height) / MOST_PIXELS)));
    const table = new Uint32Array(256);
    for (const { id, color } of colors) table[id] = (255 << 24) | (color[2] << 16) | (color[1] << 8) | color[0];
    this.#paint(this.classes, answer.labels, table);
    const grey = Uint32Array.from({ length: 256 }, (_, i) => (0xff000000 | (i * 0x10101)) >>> 0);
    this.#paint(this.confidence, answer.confidence, grey);
    this.setHighlight(this.highlight);
  }

  setDepthColors(name, minMm, maxMm) {
    this.#paint(this.depth, this.answer.depth, depthTable(name, minMm, maxMm));
  }

  /** Darkens all but one class; null: none. */
  setHighlight(id) {
    this.highlight = id;
    if (id === null || !this.answer) return;
    const table = new Uint32Array(256).fill(0xd9120d0b);
    table[id] = 0;
    this.#paint(this.dim, this.answer.labels, table);
  }

  #paint(canvas, values, table) {
    const { width, height } = this.answer;
    const { step } = this;
    const w = Math.ceil(width / step);
    const h = Math.ceil(height / step);
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    const image = new ImageData(w, h);
    const words = new Uint32Array(image.data.buffer);
    for (let y = 0, at = 0; y < h; y++) {
      const row = y * step * width;
      for (let x = 0; x < w; x++) words[at++] = table[values[row + x * step]];
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  /** Draws a panel: the photo, and over it `layer` ("classes", "depth", "confidence" or "") with `opacity` 0 to 1. */
  draw(canvas, layer, opacity) {
    const { answer, classes, picture } = this;
    const { width: w, height: h } = classes;
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, w, h);
    if (picture) context.drawImage(picture, 0, 0, w, h);
    if (layer) {
      context.globalAlpha = picture ? opacity : 1;
      context.drawImage(this[layer], 0, 0);
      context.globalAlpha = 1;
    }
    if (this.highlight !== null) context.drawImage(this.dim, 0, 0);
    // Lines as thick on the screen as they should be, whatever the picture's size.
    const unit = w / (canvas.clientWidth || w);
    this.#drawMarks(context, w / answer.width, unit);
  }

  #drawMarks(context, scale, unit) {
    const at = ({ x, y }) => [(x + 0.5) * scale, (y + 0.5) * scale];
    const stroke = (path) => {
      for (const [color, size] of [["#000c", 4], ["#fff", 2]]) {
        context.strokeStyle = color;
        context.lineWidth = size * unit;
        context.beginPath();
        path();
        context.stroke();
      }
    };
    if (this.marks.length === 2) {
      stroke(() => {
        context.moveTo(...at(this.marks[0]));
        context.lineTo(...at(this.marks[1]));
      });
    }
    for (const mark of this.marks) stroke(() => context.arc(...at(mark), 6 * unit, 0, 7));
    if (this.cursor) {
      const [x, y] = at(this.cursor);
      stroke(() => {
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          context.moveTo(x + 4 * unit * dx, y + 4 * unit * dy);
          context.lineTo(x + 11 * unit * dx, y + 11 * unit * dy);
        }
      });
    }
  }
}

/** The point of a pixel in metres (x right, y down, z forward), or null where depth is invalid. */
export function pointOf(answer, { x, y }) {
  const z = answer.depth[y * answer.width + x] / 1000;
  const { fx, fy, cx, cy } = answer.meta.camera;
  return z ? [((x - cx) * z) / fx, ((y - cy) * z) / fy, z] : null;
}

/** Metres between two pixels' points, or null. */
export function distance(answer, a, b) {
  const [p, q] = [pointOf(answer, a), pointOf(answer, b)];
  return p && q ? Math.hypot(p[0] - q[0], p[1] - q[1], p[2] - q[2]) : null;
}

/** The nearest and the farthest valid depth in metres, without the outermost half percent at either end. */
export function depthRange({ depth }) {
  const counts = new Uint32Array(65536);
  for (const mm of depth) counts[mm]++;
  const valid = depth.length - counts[0];
  const limit = valid * 0.005;
  const end = (from, by) => {
    let mm = from;
    for (let seen = counts[mm]; seen <= limit && mm + by > 0 && mm + by < 65536; seen += counts[mm]) mm += by;
    return mm / 1000;
  };
  return valid ? [end(1, 1), end(65535, -1)] : [0, 1];
}

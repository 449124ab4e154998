// The point cloud: one draw call of points in WebGL2, orbited around what the photo looks at.

const MOST_POINTS = 500_000;

const VERTEX = `#version 300 es
in vec3 position; in vec3 color; in float label;
uniform mat4 view; uniform vec2 zoom; uniform float size; uniform float highlight; uniform bool solid;
out vec3 shade;
void main() {
  vec4 p = view * vec4(position, 1.0);
  // A perspective camera that looks along +z, y down.
  float n = 0.05, f = 200.0;
  gl_Position = vec4(p.x * zoom.x, -p.y * zoom.y, (p.z * (f + n) - 2.0 * f * n) / (f - n), p.z);
  // As large as the pixel was, seen from here, so that surfaces stay closed.
  gl_PointSize = solid ? 5.0 : clamp(size * position.z / max(p.z, n), 1.0, 24.0);
  shade = solid || highlight < 0.0 || highlight == label ? color : mix(color, vec3(0.5), 0.85) * 0.45;
}`;

const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 shade; out vec4 pixel;
void main() { pixel = vec4(shade, 1.0); }`;

export class Cloud {
  /** Throws where the browser has no WebGL2. `onLost` is called when the points have to be set again: a phone takes the
   * context from a page in the background. */
  constructor(canvas, onLost) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl2", { alpha: true, antialias: false, preserveDrawingBuffer: true });
    if (!this.gl) throw new Error("This browser has no WebGL2.");
    this.highlight = null;
    this.#build();
    this.home();
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.count = 0;
    });
    canvas.addEventListener("webglcontextrestored", () => {
      this.#build();
      onLost();
    });
    this.#listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  #build() {
    const { gl } = this;
    this.program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(this.program));
    this.uniforms = Object.fromEntries(
      ["view", "zoom", "size", "highlight", "solid"].map((name) => [name, gl.getUniformLocation(this.program, name)]),
    );
    this.buffers = { position: gl.createBuffer(), color: gl.createBuffer(), label: gl.createBuffer() };
    this.points = this.#layout(this.buffers);
    this.line = { position: gl.createBuffer() };
    this.lineLayout = this.#layout(this.line);
    this.count = 0;
    this.lineCount = 0;
  }

  #layout(buffers) {
    const { gl, program } = this;
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    const shapes = { position: [3, gl.FLOAT, false], color: [3, gl.UNSIGNED_BYTE, true], label: [1, gl.UNSIGNED_BYTE, false] };
    for (const [name, buffer] of Object.entries(buffers)) {
      const at = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, ...shapes[name], 0, 0);
    }
    return array;
  }

  /** The points of an answer. `rgba` has the colours of `columns` x `rows` pixels, to be taken by nearest neighbour. */
  set(answer, rgba, columns, rows) {
    const { gl } = this;
    const { width, height, depth, labels } = answer;
    const { fx, fy, cx, cy } = answer.meta.camera;
    const step = Math.max(1, Math.ceil(Math.sqrt((width * height) / MOST_POINTS)));
    const most = Math.ceil(width / step) * Math.ceil(height / step);
    const position = new Float32Array(3 * most);
    const color = new Uint8Array(3 * most);
    const label = new Uint8Array(most);
    let n = 0;
    for (let y = 0; y < height; y += step) {
      const row = Math.floor((y * rows) / height) * columns;
      for (let x = 0; x < width; x += step) {
        const at = y * width + x;
        const z = depth[at] / 1000;
        if (!z) continue;
        position.set([((x - cx) * z) / fx, ((y - cy) * z) / fy, z], 3 * n);
        const pixel = 4 * (row + Math.floor((x * columns) / width));
        color.set([rgba[pixel], rgba[pixel + 1], rgba[pixel + 2]], 3 * n);
        label[n++] = labels[at];
      }
    }
    for (const [name, values] of Object.entries({ position, color, label })) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, values.subarray(0, name === "label" ? n : 3 * n), gl.DYNAMIC_DRAW);
    }
    this.count = n;
    this.step = step;
    this.focal = fx;
    this.aspect = [width / 2 / fx, height / 2 / fy];
    const z = Array.from({ length: Math.min(n, 999) }, (_, i) => position[3 * Math.floor((i * n) / Math.min(n, 999)) + 2]);
    this.middle = n ? z.sort((a, b) => a - b)[z.length >> 1] : 2;
    this.draw();
  }

  /** A line between two points in metres, or null for none. */
  setLine(ends) {
    const { gl } = this;
    this.lineCount = ends ? 200 : 0;
    if (ends) {
      // Of points too: WebGL's own lines are a pixel thin.
      const along = (k) => ends[0].map((from, axis) => from + ((ends[1][axis] - from) * k) / (this.lineCount - 1));
      const points = Array.from({ length: this.lineCount }, (_, k) => along(k));
      gl.bindBuffer(gl.ARRAY_BUFFER, this.line.position);
      gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(points.flat()), gl.DYNAMIC_DRAW);
    }
    this.draw();
  }

  setHighlight(id) {
    this.highlight = id;
    this.draw();
  }

  /** Back to a little beside the camera, where it is seen that there is depth. */
  home() {
    Object.assign(this, { yaw: -0.32, pitch: 0.14, closer: 1, pan: [0, 0] });
    this.draw();
  }

  move({ yaw = 0, pitch = 0, zoom = 1, pan = [0, 0] }) {
    this.yaw += yaw;
    this.pitch = Math.min(Math.max(this.pitch + pitch, -1.5), 1.5);
    this.closer = Math.min(Math.max(this.closer * zoom, 0.1), 20);
    this.pan = [this.pan[0] + pan[0], this.pan[1] + pan[1]];
    this.draw();
  }

  draw() {
    if (this.pending || !this.aspect) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.#render();
    });
  }

  #render() {
    const { gl, canvas, middle } = this;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(this.program);
    // The whole photo fits with a margin, as seen from its own camera.
    const fit = 0.92 / Math.max(this.aspect[0], (this.aspect[1] * width) / height);
    const zoom = [fit, (fit * width) / height];
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const far = middle / this.closer;
    // Turn around the middle of the room, then step back; by columns.
    const rotation = [cy, -sp * sy, -cp * sy, 0, cp, -sp, sy, sp * cy, cp * cy];
    const view = [
      ...rotation.slice(0, 3), 0, ...rotation.slice(3, 6), 0, ...rotation.slice(6), 0,
      this.pan[0] * far - rotation[6] * middle, this.pan[1] * far - rotation[7] * middle, far - rotation[8] * middle, 1,
    ];
    gl.uniformMatrix4fv(this.uniforms.view, false, view);
    gl.uniform2f(this.uniforms.zoom, ...zoom);
    gl.uniform1f(this.uniforms.size, ((1.6 * this.step) / this.focal) * (zoom[0] * width) / 2);
    gl.uniform1f(this.uniforms.highlight, this.highlight ?? -1);
    gl.uniform1i(this.uniforms.solid, 0);
    gl.bindVertexArray(this.points);
    gl.drawArrays(gl.POINTS, 0, this.count);
    if (this.lineCount) {
      gl.disable(gl.DEPTH_TEST);
      gl.bindVertexArray(this.lineLayout);
      gl.uniform1i(this.uniforms.solid, 1);
      const color = gl.getAttribLocation(this.program, "color");
      gl.vertexAttrib3f(color, 1, 0.2, 0.15);
      gl.drawArrays(gl.POINTS, 0, this.lineCount);
    }
  }

  #listen() {
    const { canvas } = this;
    const down = new Map();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      down.set(event.pointerId, [event.clientX, event.clientY]);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => down.delete(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      const before = down.get(event.pointerId);
      if (!before) return;
      const now = [event.clientX, event.clientY];
      const other = [...down].find(([id]) => id !== event.pointerId)?.[1];
      const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
      const size = canvas.clientWidth;
      if (other) {
        const spread = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        this.move({ zoom: spread(now) / spread(before), pan: [dx / size / 2, dy / size / 2] });
      } else if (event.shiftKey || event.buttons === 2) this.move({ pan: [dx / size, dy / size] });
      else this.move({ yaw: (dx / size) * 3, pitch: (-dy / size) * 3 });
      down.set(event.pointerId, now);
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.home());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.move({ zoom: Math.exp(-event.deltaY * 0.0015) });
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (arrow && event.shiftKey) this.move({ pan: [arrow[0] * 0.03, arrow[1] * 0.03] });
      else if (arrow) this.move({ yaw: arrow[0] * 0.08, pitch: -arrow[1] * 0.08 });
      else if (event.key === "+" || event.key === "=") this.move({ zoom: 1.15 });
      else if (event.key === "-") this.move({ zoom: 1 / 1.15 });
      else if (event.key === "0" || event.key === "Home") this.home();
      else return;
      event.preventDefault();
    });
  }
}

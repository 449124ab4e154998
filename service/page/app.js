// The page: what is chosen, what is shown, and what happens in between.

import { analyse, hasKey, post, predictPath, Problem, request, useKey } from "./answer.js";
import { Cloud } from "./cloud.js";
import { colorAt, COLORMAPS, ticks } from "./colormaps.js";
import { Live } from "./live.js";
import { depthRange, distance, Panels, pointOf } from "./panels.js";
import { bitmap } from "./photo.js";

const $ = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/** Of files that are no PNG. */
const ENDINGS = { json: ".json", coco: "-coco.json", npz: ".npz", zip: ".zip", multipart: ".multipart", ply: ".ply", glb: ".glb" };
const SOURCES = {
  request: "As you set it.",
  exif: "From the photo's EXIF.",
  assumed: "A typical lens is assumed. Set that of yours for right distances.",
};

const panels = new Panels();
const live = new Live($("#video"));
const flat = all("#panels figure:not([data-layer=cloud]) canvas");
/** What is on screen; `file` {blob, name}, `answer` of analyse, `picture` to draw or null, `hfov` where chosen. */
const shown = { file: null, answer: null, picture: null, hfov: null, pinned: null };
/** How much of the map each flat view shows over the photo, in percent. */
const blends = { classes: 60, depth: 100, side: 100 };
let card = null;
let cloud = null;
let cloudIsStale = true;
let asking = new AbortController();
/** Counts what was asked for, so that something that was slow to load does not replace something newer. */
let turn = 0;
/** The file whose answer is awaited. */
let awaited = null;
/** What a missing key has kept from being done. */
let retry = null;
/** Whether the field of view is being chosen, which answers to the camera's frames must not change. */
let choosing = false;
const POINT_AT = $("#readout output").textContent;

// --- asking

/** Analyses a picture and shows it; a newer call ends an older one. */
async function ask(file, hfov = null) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  awaited = file;
  say(`${file.name} is on its way …`, true);
  problem(null);
  try {
    const [answer, picture] = await Promise.all([patiently(() => analyse(file.blob, file.name, { hfov }, signal), signal), bitmap(file.blob)]);
    await readCard(answer.meta.model);
    if (signal.aborted) return;
    show(file, answer, picture, hfov);
    say(summary());
    nameModel();
  } catch (error) {
    if (signal.aborted) return;
    if (shown.answer) lens(); // Not the one that was asked for.
    sayShown();
    problem(error, () => ask(file, hfov));
  } finally {
    if (!signal.aborted) awaited = null;
  }
}

/** Tries again while the server says that it will soon be able to. */
async function patiently(attempt, signal) {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      if (error.status !== 503 || !error.retryAfter || tries >= 30) throw error;
      const wait = Math.min(error.retryAfter, 10);
      say(`${error.title}. Trying again in ${wait} s …`, true);
      await pause(wait);
      if (signal.aborted) throw error;
    }
  }
}

/** Reads the model's card, if there is none yet or that of another model than has answered. */
async function readCard(model = null) {
  if (card && (!model || (card.name === model.name && card.version === model.version))) return;
  card = await request("model").then((response) => response.json()).catch(() => card);
}

function nameModel() {
  const { model } = shown.answer.meta;
  $("#made-by").textContent = `${model.name} ${model.version}: ${model.network} on ${model.backbone}, ${model.provider.replace("ExecutionProvider", "")}.`;
}

function say(text, busy = false) {
  $("#status").textContent = text;
  document.body.classList.toggle("busy", busy);
  $("#result").setAttribute("aria-busy", busy);
}

/** Says what is on screen: what was asked for last has not come. */
function sayShown() {
  say(shown.answer ? summary() : "");
}

/** Tells of an error, or with null that there is none now. Where a key is asked for, `again` is done when it is given. */
function problem(error, again = null) {
  $("#problem").hidden = !error;
  const locked = error?.status === 401;
  $("#unlock").hidden = !locked;
  $("#key").value = "";
  if (!error) return;
  if (locked) {
    error = new Problem("This server asks for an API key", hasKey() ? "It does not know the one you gave." : "Give it below.");
    retry = again;
    $("#key").focus();
  }
  const known = error instanceof Problem;
  $("#problem strong").textContent = known ? `${error.title}.` : "That did not work.";
  $("#problem span").textContent = known ? error.detail : error.message;
  if (!known) console.warn(error);
}

function summary() {
  const { file, answer, picture } = shown;
  const { segmentation, depth } = answer.meta;
  const first = segmentation.classes.slice(0, 3).map(({ name, fraction }) => `${name} ${percent(fraction)}`).join(", ");
  const range = depth.min_m === null ? "no depth" : `${metres(depth.min_m)} to ${metres(depth.max_m)}`;
  const blind = picture ? "" : " This browser cannot show the photo's format; the maps are complete.";
  const count = segmentation.classes.length;
  return `${file.name}: ${count} ${count === 1 ? "class" : "classes"} (${first}${count > 3 ? " …" : ""}), ${range}.${blind}`;
}

const percent = (fraction) => `${fraction && fraction < 0.01 ? "<1" : Math.round(100 * fraction)} %`;
const metres = (value) => (value === null ? "–" : `${value.toFixed(2)} m`);

// --- showing

function show(file, answer, picture, hfov) {
  const same = shown.answer && shown.answer.width === answer.width && shown.answer.height === answer.height;
  if (!same || (shown.file !== file && !live.running)) panels.marks = [];
  if (!same) panels.cursor = panels.highlight = shown.pinned = null;
  Object.assign(shown, { file, answer, picture, hfov });
  $("#result").hidden = false;
  panels.set(answer, picture, answer.meta.segmentation.classes);
  for (const figure of all("#panels figure:not([data-layer=cloud])")) {
    figure.style.maxWidth = `calc(70vh * ${answer.width / answer.height})`;
  }
  cloudIsStale = true;
  legend();
  tell();
  paintDepth();
  lens();
  timing();
  measure();
  command();
}

function view() {
  return $("[name=view]:checked").value;
}

function draw() {
  if (!shown.answer) return;
  const opacity = $("#blend").value / 100;
  for (const canvas of flat) {
    if (canvas.offsetParent) panels.draw(canvas, canvas.parentElement.dataset.layer, opacity);
  }
  if (view() !== "cloud") return;
  try {
    cloud ??= new Cloud($("#cloud"), () => {
      cloudIsStale = true;
      draw();
    });
    if (cloudIsStale) {
      cloudIsStale = false;
      cloud.set(shown.answer, ...pointColors());
    }
    cloud.setHighlight(panels.highlight);
    const ends = panels.marks.length === 2 ? panels.marks.map((mark) => pointOf(shown.answer, mark)) : [null];
    cloud.setLine(ends.every(Boolean) ? ends : null);
  } catch (error) {
    problem(new Problem("The 3-D view cannot be shown", error.message));
  }
}

function pointColors() {
  const { width, height } = panels.classes;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const photo = $("#points").value === "picture" && shown.picture;
  context.drawImage(photo || panels.classes, 0, 0, width, height);
  return [context.getImageData(0, 0, width, height).data, width, height];
}

function changeView() {
  const now = view();
  $("#panels").dataset.view = now;
  $("#blend-label").hidden = now === "cloud";
  $("#blend").value = blends[now] ?? 0;
  $("#points-label").hidden = now !== "cloud";
  $("#scale").hidden = now === "classes" || now === "cloud";
  $("#format").value = { classes: "overlay", depth: "depth", side: "zip", cloud: "ply" }[now];
  draw();
  command();
}

function legend() {
  const list = $("#legend");
  const { classes } = shown.answer.meta.segmentation;
  const known = new Map([...list.children].map((item) => [Number(item.firstChild.dataset.id), item]));
  const items = classes.map((found) => {
    const item = known.get(found.id) ?? legendItem(found.id);
    const [swatch, name, share, depth] = item.firstChild.children;
    swatch.style.background = `rgb(${found.color})`;
    name.textContent = found.name;
    share.textContent = percent(found.fraction);
    depth.textContent = metres(found.median_depth_m);
    return item;
  });
  const order = (some) => some.map((item) => item.firstChild.dataset.id).join();
  // While a key or the pointer is on an item, it stays where it is.
  if (!list.contains(document.activeElement) && order([...list.children]) !== order(items)) list.replaceChildren(...items);
  else for (const item of new Set([...list.children, ...items])) {
    if (!items.includes(item)) item.remove();
    else if (!item.parentElement) list.append(item);
  }
  if (!classes.some(({ id }) => id === shown.pinned)) shown.pinned = null;
  highlight(shown.pinned);
}

function legendItem(id) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.id = id;
  button.setAttribute("aria-pressed", "false");
  button.append(...Array.from({ length: 4 }, () => document.createElement("span")));
  button.firstChild.className = "swatch";
  button.addEventListener("pointerenter", () => highlight(id));
  button.addEventListener("pointerleave", () => highlight(shown.pinned));
  button.addEventListener("focus", () => button.matches(":focus-visible") && highlight(id));
  button.addEventListener("blur", () => highlight(shown.pinned));
  button.addEventListener("click", () => {
    shown.pinned = shown.pinned === id ? null : id;
    highlight(shown.pinned);
  });
  item.append(button);
  return item;
}

function highlight(id) {
  panels.setHighlight(id);
  for (const button of all("#legend button")) button.setAttribute("aria-pressed", Number(button.dataset.id) === shown.pinned);
  draw();
}

function paintDepth() {
  const name = $("#colormap").value;
  const { depth } = shown.answer.meta;
  let [near, far] = $("#range").value === "picture" || !card ? depthRange(shown.answer) : [card.depth.min_m, card.depth.max_m];
  if (!(far > near)) far = near + 0.1;
  panels.setDepthColors(name, 1000 * near, 1000 * far);
  const canvas = $("#scale canvas");
  const context = canvas.getContext("2d");
  for (let x = 0; x < 256; x++) {
    context.fillStyle = `rgb(${colorAt(name, 1 - x / 255)})`;
    context.fillRect(x, 0, 1, 1);
  }
  const place = (value) => (100 * (value - near)) / (far - near);
  $("#scale .ticks").replaceChildren(
    ...ticks(near, far).map((value) => {
      const tick = document.createElement("span");
      tick.textContent = `${value} m`;
      tick.style.left = `${Math.min(Math.max(place(value), 2.5), 97)}%`;
      return tick;
    }),
  );
  const given = depth.min_m === null ? "no valid depth" : `${metres(near)} to ${metres(far)}`;
  $("#scale .ticks").setAttribute("aria-label", `Depth scale: ${given}, near is bright`);
  draw();
}

function lens() {
  if (choosing) return;
  const { hfov_deg: degrees, source } = shown.answer.meta.camera;
  $("#hfov").value = degrees;
  $("#hfov-value").textContent = `${Math.round(degrees)}° wide`;
  $("#hfov-hint").textContent = SOURCES[source] ?? "";
}

function timing() {
  const { timing_ms: server } = shown.answer.meta;
  const rows = [
    ["decode", server.decode], ["queue", server.queue], ["network", server.infer], ["encode", server.encode],
    ["server in all", server.total], ["with the way", shown.answer.roundTrip],
  ];
  const most = Math.max(...rows.map(([, value]) => value));
  $("#timing").replaceChildren(
    ...rows.flatMap(([name, value]) => {
      const [term, bar, text] = ["dt", "dd", "dd"].map((tag) => document.createElement(tag));
      term.textContent = name;
      bar.className = "bar";
      bar.style.width = `${(100 * value) / most}%`;
      bar.setAttribute("aria-hidden", "true");
      text.textContent = `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
      return [term, bar, text];
    }),
  );
}

// --- pointing and measuring

function pixelAt(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const place = (at, from, size, count) => Math.min(Math.max(Math.floor(((at - from) / size) * count), 0), count - 1);
  const { width, height } = shown.answer;
  return { x: place(event.clientX, box.left, box.width, width), y: place(event.clientY, box.top, box.height, height) };
}

function point(pixel) {
  panels.cursor = pixel;
  tell();
  draw();
}

/** Says what is where the pointer is. */
function tell() {
  const pixel = panels.cursor;
  const { answer } = shown;
  const output = $("#readout output");
  const swatch = $("#readout .swatch");
  const at = pixel && pixel.y * answer.width + pixel.x;
  const found = pixel && answer.meta.segmentation.classes.find(({ id }) => id === answer.labels[at]);
  swatch.hidden = !found;
  if (!pixel) output.textContent = POINT_AT;
  if (found) {
    swatch.style.background = `rgb(${found.color})`;
    const mm = answer.depth[at];
    const depth = mm ? `${(mm / 1000).toFixed(2)} m away` : "no depth";
    output.textContent = `${found.name} · ${Math.round((100 * answer.confidence[at]) / 255)} % sure · ${depth}`;
  }
  for (const button of all("#legend button")) button.toggleAttribute("data-current", Number(button.dataset.id) === found?.id);
}

function mark(pixel) {
  panels.marks = panels.marks.length === 2 ? [pixel] : [...panels.marks, pixel];
  measure();
  draw();
}

function measure() {
  const { marks } = panels;
  const done = marks.length === 2;
  const value = done ? distance(shown.answer, ...marks) : null;
  $("#distance").textContent = !marks.length
    ? "Click two points in the picture."
    : !done
      ? "Now the second point."
      : value === null
        ? "No depth at one of the points."
        : `${metres(value)} apart`;
  $(".measured").classList.toggle("done", value !== null);
  $("#clear").hidden = !marks.length;
}

for (const canvas of flat) {
  canvas.addEventListener("pointermove", (event) => point(pixelAt(canvas, event)));
  canvas.addEventListener("pointerleave", () => {
    panels.cursor = null;
    draw();
  });
  canvas.addEventListener("click", (event) => {
    point(pixelAt(canvas, event));
    mark(pixelAt(canvas, event));
  });
  canvas.addEventListener("focus", () => {
    // A key told it, so tell by voice too; the pointer would make it talk without end.
    $("#readout output").setAttribute("aria-live", canvas.matches(":focus-visible") ? "polite" : "off");
  });
  canvas.addEventListener("keydown", (event) => {
    const { width, height } = shown.answer;
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(width / 60));
    const [dx, dy] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] ?? [0, 0];
    const from = panels.cursor ?? { x: width >> 1, y: height >> 1 };
    if (dx || dy) point({ x: Math.min(Math.max(from.x + dx, 0), width - 1), y: Math.min(Math.max(from.y + dy, 0), height - 1) });
    else if (event.key === "Enter" || event.key === " ") mark(from);
    else if (event.key === "Escape") clearMarks();
    else return;
    event.preventDefault();
  });
}

function clearMarks() {
  panels.marks = [];
  measure();
  draw();
}

// --- taking it away

function wanted() {
  const output = $("#format").value;
  const options = { hfov: shown.hfov };
  if (output === "unreliable") options.min_confidence = 0.5;
  if ((output === "ply" || output === "glb") && $("#points").value === "class") options.color = "class";
  const stem = shown.file.name.replace(/\.[^.]*$/, "") || "picture";
  return { path: predictPath(output, options), name: stem + (ENDINGS[output] ?? `-${output}.png`) };
}

function command() {
  if (!shown.file) return;
  const { path, name } = wanted();
  const shell = (text) => (/^[\w.@%+=:,/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const file = shown.file.name;
  const field = /[^\w.-]/.test(file) ? `file=@"${file.replace(/[\\"]/g, "\\$&")}"` : `file=@${file}`;
  // The key itself is for nobody to see.
  const header = hasKey() ? '-H "X-API-Key: $KEY" ' : "";
  const line = `curl ${header}-F ${shell(field)} ${shell(new URL(path, document.baseURI).href)} -o ${shell(name)}`;
  if (line !== $("#curl").textContent) $("#copy").textContent = "Copy";
  $("#curl").textContent = line;
}

/** Hands a file to the browser. */
function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function download() {
  const { path, name } = wanted();
  $("#download").disabled = true;
  problem(null);
  try {
    const response = await post(path, shown.file.blob, shown.file.name);
    save(await response.blob(), name);
    say(`${name} is downloaded.`);
  } catch (error) {
    problem(error, download);
  } finally {
    $("#download").disabled = false;
  }
}

// --- where pictures come from

async function take(file, name) {
  const mine = ++turn;
  stopLive();
  awaited = null;
  for (const button of all("[data-example]")) button.removeAttribute("aria-current");
  // Now, since it is sent again for every field of view and download, and may be gone by then.
  const bytes = await file.arrayBuffer().catch(() => null);
  if (mine !== turn) return;
  if (bytes) return ask({ blob: new Blob([bytes], { type: file.type }), name: name || "picture" });
  sayShown();
  problem(new Problem("The file cannot be read", "Is it still there?"));
}

async function takeExample(button) {
  const name = `${button.dataset.example}.jpg`;
  const mine = ++turn;
  const response = await fetch(`page/examples/${name}`).catch(() => null);
  if (mine !== turn) return undefined;
  const blob = response?.ok ? await response.blob().catch(() => null) : null;
  if (mine !== turn) return undefined;
  if (!blob) {
    sayShown();
    return problem(new Problem("The example cannot be loaded", "The server does not answer."));
  }
  const done = take(blob, name);
  button.setAttribute("aria-current", "true");
  return done;
}

async function runLive() {
  turn++;
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  awaited = null;
  problem(null);
  live.stop(); // One that is still being started.
  try {
    await live.start(signal, () => {
      stopLive();
      problem(new Problem("The camera is gone", "It was unplugged, or its permission was taken back."));
    });
  } catch (error) {
    if (signal.aborted) return;
    live.stop();
    problem(new Problem("There is no camera to use", error.message));
    return;
  }
  if (signal.aborted) return;
  panels.marks = [];
  for (const button of all("[data-example]")) button.removeAttribute("aria-current");
  $("#camera").setAttribute("aria-pressed", "true");
  $("#camera").textContent = "Stop the camera";
  $("#live").hidden = $("#video").hidden = false;
  say("The camera is on.");
  let wait = 0;
  while (live.running && !signal.aborted) {
    try {
      const { picture, blob } = await live.frame();
      const answer = await analyse(blob, "camera.jpg", { hfov: live.hfov ?? null }, signal);
      await readCard(answer.meta.model);
      if (!live.running || signal.aborted) break;
      show({ blob, name: "camera.jpg" }, answer, picture, live.hfov ?? null);
      $("#rate").textContent = `${live.rate().toFixed(1)} frames per second`;
      wait = 0;
    } catch (error) {
      if (signal.aborted) break;
      if (error.status !== 503) {
        problem(error, runLive);
        break;
      }
      wait = Math.min(error.retryAfter || 1, 5);
    }
    await (wait ? pause(wait) : new Promise(requestAnimationFrame));
  }
  if (!signal.aborted) stopLive(); // Else it is stopped, and may have been started again.
}

function stopLive() {
  const ran = live.running;
  live.stop();
  asking.abort();
  if (!ran) return;
  $("#camera").setAttribute("aria-pressed", "false");
  $("#camera").textContent = "Use the camera";
  $("#live").hidden = $("#video").hidden = true;
  if (shown.answer) say(summary());
}

$("#file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) take(file, file.name);
  event.target.value = "";
});
for (const button of all("[data-example]")) button.addEventListener("click", () => takeExample(button));
$("#camera").addEventListener("click", () => (live.running ? stopLive() : runLive()));
$("#keep").addEventListener("click", () => {
  stopLive();
  $("#camera").focus();
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) take(file, file.name);
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file) take(file, file.name);
  else problem(new Problem("That was not a file", "Drop a picture file, or save the picture first and choose it."));
});

// --- controls

$("#unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("#key").value.trim());
  retry();
});
$("#colormap").append(...COLORMAPS.map((name) => new Option(name)));
for (const input of all("[name=view]")) input.addEventListener("change", changeView);
$("#blend").addEventListener("input", () => {
  blends[view()] = $("#blend").valueAsNumber;
  draw();
});
for (const id of ["#colormap", "#range"]) $(id).addEventListener("change", paintDepth);
$("#points").addEventListener("change", () => {
  cloudIsStale = true;
  draw();
  command();
});
$("#clear").addEventListener("click", clearMarks);
$("#hfov").addEventListener("input", () => ($("#hfov-value").textContent = `${$("#hfov").value}° wide`));
$("#hfov").addEventListener("pointerdown", () => (choosing = true));
for (const name of ["pointerup", "pointercancel"]) {
  $("#hfov").addEventListener(name, () => requestAnimationFrame(() => (choosing = false))); // After `change`.
}
$("#hfov").addEventListener("change", () => {
  const hfov = Number($("#hfov").value);
  choosing = false;
  if (live.running) live.hfov = hfov;
  else if (awaited ?? shown.file) ask(awaited ?? shown.file, hfov);
});
$("#format").addEventListener("change", command);
$("#download").addEventListener("click", download);
$("#card").addEventListener("click", (event) => {
  if (!hasKey() || !card) return;
  event.preventDefault(); // A link cannot carry the key.
  save(new Blob([JSON.stringify(card, null, 1)], { type: "application/json" }), "model-card.json");
});
$("#copy").addEventListener("click", async () => {
  // Browsers give no clipboard to pages on http:// but localhost's.
  await (navigator.clipboard?.writeText($("#curl").textContent) ?? Promise.reject(new Error("no clipboard"))).then(
    () => ($("#copy").textContent = "Copied"),
    () => getSelection().selectAllChildren($("#curl")),
  );
});
addEventListener("resize", draw);

changeView();
await readCard();
if (!turn) takeExample($("[data-example]"));

// The camera: a frame is sent when the answer to the one before is there.

/** Runs the camera until stopped. */
export class Live {
  constructor(video) {
    this.video = video;
    this.running = false;
    this.times = [];
  }

  /** Asks for the camera. Throws what getUserMedia throws, or an Error where the browser has none to give. Whoever
   * aborts `signal` calls `stop`; a camera that is given only then is given back. `gone` is called when the camera goes
   * away by itself. */
  async start(signal, gone) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("The browser gives cameras to pages on https:// and on localhost only.");
    }
    const stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: { ideal: "environment" }, width: { ideal: 640 }, height: { ideal: 480 } },
    });
    if (signal.aborted) {
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    this.stream = stream;
    for (const track of stream.getTracks()) track.addEventListener("ended", gone);
    this.video.srcObject = stream;
    await this.video.play();
    if (signal.aborted) return;
    this.running = true;
    this.times = [];
  }

  stop() {
    this.running = false;
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }

  /** What the camera sees now: {picture: a canvas, blob: a JPEG}. */
  async frame() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const picture = Object.assign(document.createElement("canvas"), { width, height });
    picture.getContext("2d").drawImage(this.video, 0, 0);
    return { picture, blob: await new Promise((done) => picture.toBlob(done, "image/jpeg", 0.9)) };
  }

  /** To be called at every answer; frames per second over the last ten. */
  rate() {
    this.times = [...this.times, performance.now()].slice(-11);
    const seconds = (this.times.at(-1) - this.times[0]) / 1000;
    return seconds ? (this.times.length - 1) / seconds : 0;
  }
}

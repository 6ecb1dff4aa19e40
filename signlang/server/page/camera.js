// Camera capture: frames, whole or cropped to the guide square.

export const GUIDE = 0.8; // side of the guide, as a part of the shorter side of the image
const MOST = 320; // pixels of a side of the square; networks see fewer
const WHOLE = 640; // pixels of the longer side of a whole frame, in which a hand is to be found

export class Camera {
  constructor(video) {
    this.video = video;
    this.stream = null;
    this.canvas = document.createElement("canvas");
  }

  get isOn() {
    return this.stream !== null;
  }

  /** Whether the camera looks at its user, who then wants to see a mirror. */
  get isSelfie() {
    return this.stream?.getVideoTracks()[0]?.getSettings().facingMode !== "environment";
  }

  /** Start a camera, by its id or any; `ended` is called when it is unplugged. */
  async start(id, ended) {
    this.stop();
    if (!navigator.mediaDevices?.getUserMedia) throw new DOMException("", "SecurityError");
    const video = { width: { ideal: 640 }, height: { ideal: 480 } };
    if (id) video.deviceId = { exact: id };
    else video.facingMode = "user";
    this.stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    for (const track of this.stream.getTracks()) track.addEventListener("ended", ended);
    this.video.srcObject = this.stream;
    await this.video.play();
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  /** All cameras; they have names only once one has been allowed. */
  static async all() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    return devices.filter((device) => device.kind === "videoinput" && device.deviceId);
  }

  /** The present frame, whole or inside the guide, on a canvas; null as long as there is none. */
  frame({ isMirrored, isWhole }) {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!this.isOn || !width) return null;
    const square = Math.round(Math.min(width, height) * GUIDE);
    const part = isWhole ? [width, height] : [square, square];
    const scale = Math.min(1, (isWhole ? WHOLE : MOST) / Math.max(...part));
    const size = part.map((length) => Math.round(length * scale));
    [this.canvas.width, this.canvas.height] = size;
    const pen = this.canvas.getContext("2d", { willReadFrequently: true });
    pen.imageSmoothingQuality = "high";
    if (isMirrored) {
      pen.translate(size[0], 0);
      pen.scale(-1, 1);
    }
    pen.drawImage(this.video, (width - part[0]) / 2, (height - part[1]) / 2, ...part, 0, 0, ...size);
    return this.canvas;
  }
}

/** Why a camera did not start, for people. */
export function excuse(error) {
  const sentences = {
    NotAllowedError: "The camera was refused. Allow it beside the address of this page, or choose images below.",
    NotFoundError: "There is no camera. Choose images below instead.",
    NotReadableError: "Another program uses the camera. Close that one, then start again.",
    OverconstrainedError: "This camera is gone. Choose another one.",
    SecurityError: "Browsers give the camera only to pages from https or localhost. Choose images below instead.",
  };
  return sentences[error.name] ?? `The camera did not start (${error.name}). Choose images below instead.`;
}

// The photo as it is drawn under the maps.

/** For each EXIF orientation the transform that makes a w x h picture upright, as of canvas' `transform`. */
const UPRIGHT = {
  2: (w) => [-1, 0, 0, 1, w, 0],
  3: (w, h) => [-1, 0, 0, -1, w, h],
  4: (w, h) => [1, 0, 0, -1, 0, h],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (w, h) => [0, 1, -1, 0, h, 0],
  7: (w, h) => [0, -1, -1, 0, h, w],
  8: (w) => [0, -1, 1, 0, 0, w],
};

/** What drawImage takes, upright as the maps are; null where the browser does not know the photo's format. */
export async function bitmap(blob) {
  const bytes = new DataView(await blob.arrayBuffer());
  if (text(bytes, 0) !== "RIFF") return createImageBitmap(blob, { imageOrientation: "from-image" }).catch(() => null);
  // Browsers do not turn WebP, and the service does.
  const picture = await createImageBitmap(blob, { imageOrientation: "none" }).catch(() => null);
  const transform = UPRIGHT[orientationOfWebP(bytes)];
  if (!picture || !transform) return picture;
  const { width, height } = picture;
  const turned = transform(width, height);
  const across = turned[0] === 0;
  const canvas = Object.assign(document.createElement("canvas"), { width: across ? height : width, height: across ? width : height });
  const context = canvas.getContext("2d");
  context.setTransform(...turned);
  context.drawImage(picture, 0, 0);
  return canvas;
}

const text = (bytes, at) => (bytes.byteLength < at + 4 ? "" : String.fromCharCode(...[0, 1, 2, 3].map((k) => bytes.getUint8(at + k))));

/** Of the first directory of its EXIF chunk; 1 where there is none. */
function orientationOfWebP(bytes) {
  try {
    for (let at = 12; at + 8 <= bytes.byteLength; ) {
      const size = bytes.getUint32(at + 4, true);
      if (text(bytes, at) === "EXIF") {
        // Some writers put JPEG's "Exif\0\0" before it.
        const start = at + 8 + (text(bytes, at + 8) === "Exif" ? 6 : 0);
        const little = bytes.getUint8(start) === 0x49;
        const directory = start + bytes.getUint32(start + 4, little);
        for (let k = 0; k < bytes.getUint16(directory, little); k++) {
          const entry = directory + 2 + 12 * k;
          if (bytes.getUint16(entry, little) === 0x0112) return bytes.getUint16(entry + 8, little);
        }
        return 1;
      }
      at += 8 + size + (size % 2);
    }
  } catch {
    // It ends in the middle of something.
  }
  return 1;
}

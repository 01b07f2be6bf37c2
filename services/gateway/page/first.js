// A picture of one's own that a world begins from, as it is sent.

/** Pixels of its longer side at most: more than any model's pictures have. */
const MOST = 1600;
/** Behind what is transparent. */
const GREY = "#808080";

/** An image file in base64, made as small as is enough. Rejects for a file that the browser cannot show. */
export async function firstPicture(file) {
  const picture = await createImageBitmap(file);
  const scale = Math.min(1, MOST / Math.max(picture.width, picture.height));
  const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = GREY;
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0, width, height);
  picture.close();
  return base64(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 }));
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result.split(",")[1]));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(blob);
  });
}

"""Which class is under the pointer, told in the browser: the mask goes there as a picture that is not shown."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from finetune.serving import html

ANSWER, POINTED, MASK = "answer", "pointed", "mask-pixels"
"""Ids of the picture, of where the class is said, and of the mask, in the page."""
HINT = "Point into the picture to see which class is there."

# A grey PNG's values come out of a canvas as they are. The picture lies in its frame as large as fits, in the middle.
SCRIPT = (
    """
() => {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let drawn = null;
  const say = (event) => {
    const picture = document.querySelector("#ANSWER img");
    const mask = document.querySelector("#MASK");
    const said = document.querySelector("#POINTED p");
    if (!picture || !said || event.target !== picture || !mask || !mask.complete || !mask.naturalWidth) return;
    const [width, height] = [mask.naturalWidth, mask.naturalHeight];
    if (drawn !== mask.src) {
      [canvas.width, canvas.height] = [width, height];
      context.drawImage(mask, 0, 0);
      drawn = mask.src;
    }
    const frame = picture.getBoundingClientRect();
    const enlarged = getComputedStyle(picture).objectFit !== "scale-down";
    const scale = Math.min(frame.width / width, frame.height / height, enlarged ? Infinity : 1);
    const x = Math.floor((event.clientX - frame.left - (frame.width - width * scale) / 2) / scale);
    const y = Math.floor((event.clientY - frame.top - (frame.height - height * scale) / 2) / scale);
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    const names = JSON.parse(mask.dataset.classes);
    said.textContent = `At ${x}, ${y}: ${names[context.getImageData(x, y, 1, 1).data[0]]}`;
  };
  document.addEventListener("pointermove", say);
  document.addEventListener("pointerdown", say);
}
""".replace("ANSWER", ANSWER)
    .replace("POINTED", POINTED)
    .replace("MASK", MASK)
)


def hidden(mask: np.ndarray, classes: Sequence[str]) -> str:
    """HTML of a mask, uint8 `[H, W]`, that the page's script reads and nobody sees."""
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    source = base64.b64encode(stream.getvalue()).decode()
    names = html.escape(json.dumps(list(classes)))
    return f'<p>{HINT}</p><img id="{MASK}" alt="" hidden data-classes="{names}" src="data:image/png;base64,{source}">'

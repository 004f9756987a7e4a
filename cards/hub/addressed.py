"""A card's snippets load "this folder"; on the Hub they name the repository that the card is in."""

from __future__ import annotations

import json


def addressed(card: str, repo_id: str, revision: str | None = None, *, onnx: bool = False) -> str:
    """The card as it is published: its snippets run anywhere, without a copy of the repository.

    Only the lines that :mod:`cards.page.render` writes are changed, so a card that somebody has edited keeps the rest.

    Args:
        card: Text of a model's README.md.
        repo_id: OWNER/NAME.
        revision: Branch; the main one when not given.
        onnx: Whether model.onnx is published, too.
    """
    at = "" if revision is None else f", revision={json.dumps(revision)}"
    hub = json.dumps(f"hf-hub:{repo_id}{f'@{revision}' if revision else ''}")
    changes = {
        "In this folder; once it is on the Hub, `hf-hub:OWNER/NAME` takes the place of `local-dir:.` in timm, and "
        "`OWNER/NAME` that of `.` in transformers.": "Each snippet runs as it is, and fetches what it needs.",
        'timm.create_model("local-dir:.", ': f"timm.create_model({hub}, ",
        'AutoImageProcessor.from_pretrained(".")': f'AutoImageProcessor.from_pretrained("{repo_id}"{at})',
        'AutoModelForImageClassification.from_pretrained(".")': (
            f'AutoModelForImageClassification.from_pretrained("{repo_id}"{at})'
        ),
    }
    if onnx:
        changes |= {
            "import onnxruntime\nfrom PIL": "import onnxruntime\nfrom huggingface_hub import hf_hub_download\nfrom PIL",
            'onnxruntime.InferenceSession("model.onnx")': (
                f'onnxruntime.InferenceSession(hf_hub_download("{repo_id}", "model.onnx"{at}))'
            ),
        }
    # A card has OpenVINO's snippet only where its files are.
    download = "from huggingface_hub import hf_hub_download\nfrom PIL"
    files = ", ".join(f'hf_hub_download("{repo_id}", "{name}"{at})' for name in ("model.xml", "model.bin"))
    changes |= {
        "import openvino\nfrom PIL": f"import openvino\n{download}",
        'core.read_model("model.xml")': f"core.read_model({files})",
    }
    for local, remote in changes.items():
        card = card.replace(local, remote)
    return card

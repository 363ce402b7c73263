"""A Transformer on film reviews: trained from scratch, audited, compressed, filed, read as a page.

`python recipes/train_text.py FOLDER chinese lstm` trains another network on other texts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import assay
from assay.data.sources.chinese_reviews import load_chinese_reviews
from assay.data.sources.sentiment import load_sentiment
from assay.story import owner_workspace
from assay.train.texts import text_recipe
from assay.values import texts

PROBES = ["accuracy", "calibration_error", "latency", "model_bytes"]
MINE = {
    "english": ["A film I will remember, warm and funny.", "Two hours of my life that I want back."],
    "chinese": ["质量很好，物流也快，下次还来", "太失望了，用了两天就坏了"],
}


def main(folder: Path, language: str, model: str) -> None:
    """Fetch the texts once (pinned and verified), train, ask, and answer for what came out."""
    data = load_sentiment(domain="movie", fetch=True) if language == "english" else load_chinese_reviews(fetch=True)
    system = assay.train_system(data, recipe=text_recipe(data, model=model), name=f"{model}_{language}")
    print(f"trained on {system.facts['examples']:,} texts in {system.facts['cpu_seconds']:.0f} CPU seconds")
    answers = system.task.probabilities(system.model.outputs(texts(MINE[language])))
    for text, chance in zip(MINE[language], answers[:, 1], strict=True):
        print(f"  {chance:.2f} positive: {text}")

    workspace = owner_workspace(folder / "cache")
    comparison = assay.compare_treatments(system, ["quantize_int8"], probes=PROBES, workspace=workspace)
    for sentence in comparison.matrix.sentences.values():
        print("·", sentence)
    for judged in comparison.judged:
        name = judged.audit.system.name
        right = judged.audit.find("accuracy")
        print(f"{name}: {judged.verdict}; right {right.value:.4f}, 95 % interval {right.low:.4f} to {right.high:.4f}")
        dossier = assay.file(judged, folder / name)
        print(f"  report: {assay.write_report(Path(dossier.path), out=folder / f'{name}.html')}")


if __name__ == "__main__":
    given = [*sys.argv[1:], *["demo/text", "english", "transformer"][len(sys.argv) - 1 :]]
    main(Path(given[0]), given[1], given[2])

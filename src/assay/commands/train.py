"""`assay train`: from a table to a saved system."""

from __future__ import annotations

from pathlib import Path

from assay.commands.console import Console
from assay.commands.sources import DataSpec, open_data, save


def run(spec: DataSpec, out: Path, seed: int, console: Console) -> None:
    """Train with the default recipe and write the system's folder."""
    from assay.models import describe
    from assay.observe import one_thread
    from assay.train.system import train_system

    one_thread()
    data, how = open_data(spec)
    with console.progress() as progress:
        system = train_system(data, seed=seed, progress=progress)
    save(system, how, out)
    facts = {name: value for name, value in system.facts.items() if isinstance(value, (int, float, str))}
    size = describe(system.model.module) if "gradient" in system.offers else {}  # type: ignore[attr-defined]
    console.say(f"trained {system.name} on {data.name}: {len(data.splits['train']):,} rows, {facts.get('steps')} steps")
    for name, value in size.items():
        console.say(f"  {name.replace('_', ' ')}: {value:,}")
    console.say(f"system: {out} (digest {system.digest[:16]})")
    console.say(f"next:   assay audit {out}")
    console.finish({"system": str(out), "digest": system.digest, "facts": facts, "size": size})

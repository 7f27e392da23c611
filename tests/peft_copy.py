"""A copy of the installed PEFT with faults in its source, as a change to PEFT would bring them."""

import importlib.util
import shutil
from pathlib import Path


def faulty_peft(folder, file, old, new):
    """Copy the installed `peft` package into `folder`, with `old` replaced by `new` in `file`; for PYTHONPATH.

    `old` must stand there once, so that no test passes because its fault found no place.
    """
    (installed,) = importlib.util.find_spec("peft").submodule_search_locations
    # compiled files are copied too: they stay valid, but for the one of the changed source
    shutil.copytree(installed, folder / "peft")
    path = folder / "peft" / file
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{Path(installed) / file} holds this {source.count(old)} times:\n{old}"
    path.write_text(source.replace(old, new), encoding="utf-8")
    return folder

"""Pickles as pandas writes them, made without it."""

import pickle

import numpy as np

PANDAS = {
    "DataFrame": "pandas.core.frame",
    "BlockManager": "pandas.core.internals.managers",
    "_unpickle_block": "pandas._libs.internals",
    "_new_Index": "pandas.core.indexes.base",
    "Index": "pandas.core.indexes.base",
    "RangeIndex": "pandas.core.indexes.range",
}
globals().update({name: type(name, (), {"__module__": __name__}) for name in PANDAS})


class Stored:
    """An object of pandas as it is pickled: a call, and a state."""

    def __init__(self, call, *arguments, state=None):
        self.made = (globals()[call], arguments) if state is None else (globals()[call], arguments, state)

    def __reduce__(self):
        return self.made


def write_frame(path, columns):
    """Write {name: list} as `pandas.DataFrame.to_pickle()` does: the numbers in one block, the rest in another."""
    names, blocks, count = list(columns), [], len(next(iter(columns.values())))
    for numbers in (True, False):
        chosen = [k for k, name in enumerate(names) if all(isinstance(v, float) for v in columns[name]) == numbers]
        values = np.empty((len(chosen), count), float if numbers else object)
        for row, k in enumerate(chosen):
            for column, value in enumerate(columns[names[k]]):
                values[row, column] = value
        close = len(chosen) > 0 and chosen == list(range(chosen[0], chosen[-1] + 1))  # of these pandas writes a slice
        places = slice(chosen[0], chosen[-1] + 1, 1) if close else np.array(chosen, int)
        blocks.append(Stored("_unpickle_block", values, places, 2))
    labels = Stored("_new_Index", globals()["Index"], {"data": np.array(names, object), "name": None})
    rows = Stored("_new_Index", globals()["RangeIndex"], {"start": 0, "stop": count, "step": 1, "name": None})
    manager = Stored("BlockManager", tuple(blocks), [labels, rows])
    content = pickle.dumps(Stored("DataFrame", state={"_mgr": manager, "_typ": "dataframe", "attrs": {}}), 3)
    for name, module in PANDAS.items():  # this protocol has names as lines of text
        content = content.replace(f"c{__name__}\n{name}\n".encode(), f"c{module}\n{name}\n".encode())
    path.write_bytes(content)
    return path

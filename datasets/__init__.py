"""From annotations to a clip store. No module here needs torch; `egodistill.data` is the door.

annotations     any annotations to segments; EPIC-KITCHENS and Ego4D
label_tools     labels of ELAN, BORIS and Label Studio
segments        the class Segment; your own tables, recordings without labels
background      clips of what no segment covers, the class "(none)"
table_checks    what is wrong, or looks wrong, in a table of segments
store           a clip store: read, fill, split
store_files     its files: shards
index           its files: columns of clips and segments
edits           a store that follows edits of its table
one_pass        models that run while the clips are decoded
"""

from ..support.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__)

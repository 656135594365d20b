"""From annotations to a clip store. No module here needs torch; `egodistill.data` is the door.

annotations     any annotations to segments; EPIC-KITCHENS and Ego4D
aria_datasets   HD-EPIC and Ego-Exo4D
segments        the class Segment; your own tables, recordings without labels
store           a clip store: read, fill, split
store_files     its files
one_pass        models that run while the clips are decoded
"""

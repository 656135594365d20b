"""A trained student at work.

stream        answers while samples and frames arrive
arrivals      its buffers and clock
gates         when to look at a new frame
events        labels that do not flicker
feeds         cameras, addresses, pipes and files, as they come
export        a student as one file, or as two programs
exported      run such files
"""

"""Exported programs that several files only read: tracing is what takes long."""

import pytest


@pytest.fixture(scope="session")
def written(once):
    """A student, and its program in fp32."""
    from small_students import pooled

    from egodistill.deploy import export

    def make(folder):
        export.export(pooled(), folder / "student.pt2")
        return folder / "student.pt2"

    return pooled(), once("exported-student", make)


@pytest.fixture(scope="session")
def paired(once):
    """The same student, and its pair in fp32."""
    from small_students import pooled

    from egodistill.deploy import export

    def make(folder):
        export.export_pair(pooled(), folder / "device.pt2")
        return folder / "device.pt2"

    return pooled(), once("exported-pair", make)

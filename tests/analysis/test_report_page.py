"""The images of a report's page."""

import base64
import io

import numpy as np
import PIL.Image
import pytest

from deit_hf.analysis.report_page import thumbnail


@pytest.mark.parametrize("size", [(20, 30), (500, 400)])
def test_thumbnail_has_no_metadata_of_the_original(size: tuple[int, int]):
    """Fails if a comment is kept; one of a GIF can be longer than a JPEG's may be, and no page would be written."""
    image = PIL.Image.fromarray(np.zeros((*size, 3), dtype=np.uint8))
    image.info = {"comment": b"by Jane " * 10_000, "dpi": (72, 72)}
    content = base64.b64decode(thumbnail(image).partition(",")[2])
    with PIL.Image.open(io.BytesIO(content)) as small:
        assert small.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert "comment" in image.info  # of the image of the dataset

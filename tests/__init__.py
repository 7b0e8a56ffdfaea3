import pytest

pytest.register_assert_rewrite("tests.support")  # its assertions then show what they compared

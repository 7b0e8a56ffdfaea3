import pytest

pytest.register_assert_rewrite("tests.support")  # whose assertions then say what they compared, as those of tests do

"""Which of ssh's questions are answered, with which secret."""

import pytest

from pyexperimenter.config.model import Secret, SshConfig
from pyexperimenter.database.ssh.tunnel import _Login

PASSWORD, PASSPHRASE = Secret("the password"), Secret("the passphrase")
HOST_KEY = """The authenticity of host 'gateway (192.0.2.1)' can't be established.
ED25519 key fingerprint is SHA256:oMYsKtiFpii.
Are you sure you want to continue connecting (yes/no/[fingerprint])? """
ANSWERS = {
    "Enter passphrase for key '/home/me/.ssh/id_ed25519': ": PASSPHRASE,
    "me@gateway's password: ": PASSWORD,
    "(me@gateway) Password: ": PASSWORD,
    "Password:": PASSWORD,
    HOST_KEY: Secret("yes"),
    "Confirm user presence for key ED25519-SK SHA256:oMYsKtiFpii": Secret(""),
    "(me@gateway) Verification code: ": None,
    "(me@gateway) One-time password: ": None,
    "Enter me@gateway's old password: ": None,
    "Enter me@gateway's new password: ": None,
    "Enter PIN for ED25519-SK key /home/me/.ssh/id_ed25519_sk: ": None,
    "Are you sure you want to continue connecting (yes/no)? ": None,  # another key at the same IP address
}


@pytest.mark.parametrize(("question", "answer"), ANSWERS.items())
def test_answers(question: str, answer: Secret | None) -> None:
    login = _Login(SshConfig("gateway", password=PASSWORD, private_key_password=PASSPHRASE))
    assert login._answer_to(question) == answer
    asked = [f"ssh asks {question.strip()!r}, which the credentials do not answer"]
    assert login.problems == (asked if answer is None else [])


def test_a_secret_that_is_asked_for_again_was_wrong() -> None:
    login = _Login(SshConfig("gateway", password=PASSWORD, private_key_password=PASSPHRASE))
    for question, second in (("Enter passphrase for key '/a': ", Secret("")), ("me@gateway's password: ", None)):
        assert login._answer_to(question) is not None
        assert login._answer_to(question) == second
    assert login._answer_to("Enter passphrase for key '/b': ") == PASSPHRASE
    assert login.problems == ["the key '/a' does not have the passphrase that was given", "the password was refused"]


def test_no_secrets() -> None:
    login = _Login(SshConfig("gateway"))
    assert login._answer_to("Enter passphrase for key '/a': ") == Secret("")
    assert login._answer_to("me@gateway's password: ") is None

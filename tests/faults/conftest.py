"""How often to kill."""


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=4, help="kill -9 so many times")

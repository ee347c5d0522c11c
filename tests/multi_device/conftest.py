"""How much of the matrix of meshes, objectives and microbatches to run."""


def pytest_addoption(parser):
    parser.addoption(
        "--full-matrix",
        action="store_true",
        help="every objective on every mesh with 1, 2 and 4 microbatches",
    )

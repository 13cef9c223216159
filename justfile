# Everything a developer does, by name. `just` alone lists it.

default:
    @just --list

# what continuous integration runs
ci:
    .ci/run

# the test suite; e.g. `just test -k store`
test *args:
    uv run pytest {{args}}

# style, types and the architecture's contracts
lint:
    uv run ruff check .
    uv run ruff format --check .
    uv run mypy
    uv run lint-imports

# rewrite the code in the house style
format:
    uv run ruff check --fix .
    uv run ruff format .

# build the documentation site into site/, or serve it: `just docs serve`
docs command="build --strict":
    NO_MKDOCS_2_WARNING=1 uv run mkdocs {{command}}

# train the embedded model from nothing; resumes
shapes cores="2":
    uv run python -m tools.train_shapes.vae
    uv run python -m tools.train_shapes.latents
    uv run torchrun --nproc-per-node {{cores}} -m tools.train_shapes.unet
    uv run torchrun --nproc-per-node {{cores}} -m tools.train_shapes.clip
    uv run python -m tools.train_shapes.assemble

# measure how well the embedded model draws
shapes-quality:
    uv run python -m tools.train_shapes.quality --split heldout --picture docs/images/shapes.png
    uv run python -m tools.train_shapes.quality --split unseen

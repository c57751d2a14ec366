"""How the documentation site is built: `sphinx-build -W --keep-going -n docs build/site`. It fetches nothing."""

import os
import re
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # and no word on other processors
DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent / "src")]

import pages  # noqa: E402  it is beside this file
from sphinx.errors import SphinxError  # noqa: E402

import pilotfish  # noqa: E402

project, author = "pilotfish", "The pilotfish developers"
project_copyright = author
version = release = pilotfish.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    # Other projects' names, as our signatures write them: their documentation cannot be asked without a network.
    ("py:class", r"(np|gymnasium|mujoco|jax|equinox|abc|numpy|eqx)\..*"),
    (
        "py:class",
        r"Array|ArrayLike|Bool|Float|Int|Key|Step|Any|Callable|Mapping|Sequence|Iterable|Iterator|Path|TextIO|Literal",
    ),
    # Ours that nobody makes by hand: states of algorithms, plants of worlds, bases of classes, names of types.
    ("py:class", r"Act|Batch|Beside|Callback|Columns|Conditions|Critic|EquationsPlant|Experience|Learned|Memory"),
    ("py:class", r"MujocoPlant|Nominal|Numbers|Plan|Skill|Steps"),
    ("py:class", r"pilotfish\.(worlds\.host\.HostWorld|policies\.gaussian\.GaussianPolicy|models\.local_q\.FittedQ)"),
]
myst_heading_anchors = 4

default_role = "code"
autodoc_member_order = "bysource"
smartquotes = False
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True, "show-inheritance": True}
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"pilotfish {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def _linked(app, docname, source):
    """On GitHub these pages link to CONTRIBUTING.md beside the folder; on the site that is a page."""
    source[0] = re.sub(r"\]\((?:\.\./)+CONTRIBUTING\.md", "](/contributing.md", source[0])


FETCHED = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*=\"stylesheet\"[^>]*\bhref=\"http"
)


def _alone(app, exception):
    """Refuse a site whose pages need another one."""
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            if (found := FETCHED.search(path.read_text())) is not None:
                raise SphinxError(f"{path} fetches from elsewhere: {found[0]}. Ship the file with the site.")


def _at_home(app, env, node, contnode):
    """What a signature names as the source does, without its module: ours, if there is but one of that name."""
    target, domain = node.get("reftarget", ""), env.domains["py"]
    if node.get("refdomain") != "py" or target.startswith("pilotfish."):
        return None
    name = target.rpartition(".")[2]
    known = [full for full in domain.objects if full.rpartition(".")[2] == name]
    if len(known) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", known[0], node, contnode)


def setup(app):
    app.connect("builder-inited", lambda app: pages.write(DOCS))
    app.connect("source-read", _linked)
    app.connect("autodoc-process-signature", lambda app, what, name, one, *_: pages.signature(what, one))
    app.connect("autodoc-process-docstring", lambda app, what, name, *rest: pages.restructure(what, name, rest[-1]))
    app.connect("missing-reference", _at_home)
    app.connect("build-finished", _alone)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The dashboard's frame: pages, title, the choice of models, and the notice that is on every page.

`serve.py` starts it.
"""

import streamlit as st

import frame

# Not in a folder `pages`, which Streamlit would serve by itself, without this frame.
# Without icons: Streamlit would fetch the tab's from another server.
PAGES = {
    "Models": [
        st.Page("views/compare.py", title="Compare", default=True),
        st.Page("views/threshold.py", title="Threshold"),
        st.Page("views/learning.py", title="Learning"),
        st.Page("views/calibration.py", title="Calibration"),
    ],
    "Cases": [
        st.Page("views/where_it_looks.py", title="Where it looks"),
        st.Page("views/localization.py", title="Localization"),
        st.Page("views/top_losses.py", title="Top losses"),
        st.Page("views/quiz.py", title="Quiz"),
    ],
    "Evidence": [
        st.Page("views/leakage.py", title="Leakage"),
        st.Page("views/papers.py", title="Papers"),
    ],
}

page = st.navigation(PAGES, expanded=True)
st.set_page_config(page_title=f"{page.title} · bthub", page_icon=str(frame.HERE / "favicon.svg"), layout="wide")
st.html(frame.HERE / "style.css")
st.html(f'<p class="notice">{frame.DISCLAIMER}</p>')
st.title(page.title)
frame.choose(*frame.load_runs())
page.run()
st.html(
    '<footer class="about">Every figure of a model is read from the files of its run. '
    "Slices: The Cancer Imaging Archive, TCGA-LGG, "
    "prepared by Buda, Saha and Mazurowski (2019), CC BY-NC-SA 4.0. Code: Apache-2.0. "
    f"{frame.DISCLAIMER}</footer>"
)

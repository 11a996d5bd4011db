"""The dashboard's frame: pages, title, the choice of models, and the notice that is on every page.

`serve.py` starts it.
"""

import streamlit as st
from lesson import STEPS, after, step

import frame

# Not in a folder `pages`, which Streamlit would serve by itself, without this frame.
# Without icons: Streamlit would fetch the tab's from another server.
PAGES = {each.file: st.Page(f"views/{each.file}.py", title=each.title, default=each.file == "start") for each in STEPS}

# Streamlit's own list of pages has headings among its items, which screen readers can't make sense of.
page = st.navigation([PAGES[each.file] for each in STEPS], position="hidden")
with st.sidebar, st.container(gap=None, key="pages"):
    for i, each in enumerate(STEPS):
        if i == 0 or each.group != STEPS[i - 1].group:
            st.html(f'<p class="group">{each.group}</p>')
        st.page_link(PAGES[each.file])
here = step(page.title)
st.set_page_config(page_title=f"{page.title} · bthub", page_icon=str(frame.HERE / "favicon.svg"), layout="wide")
st.html(frame.HERE / "style.css")
st.html(f'<p class="notice">{frame.DISCLAIMER}</p>')
with st.container(horizontal=True, vertical_alignment="center", gap="small", key="top"):
    st.title(page.title, anchor=False)
    st.html(f'<p class="question">{here.question}</p>')
    st.session_state["bar"] = st.container(horizontal=True, vertical_alignment="center", gap="small", key="bar")
with st.session_state["bar"]:
    st.toggle(
        "Presenter",
        key="present",
        bind="query-params",
        help="Large type without the list of pages, for projecting to a class.",
    )
    frame.handout()
if frame.presenting():
    st.html(frame.HERE / "presenter.css")
st.session_state["pages"] = PAGES
frame.choose(*frame.load_runs(), here)
page.run()
if following := after(page.title):
    with st.container(key="next"):
        st.page_link(
            PAGES[following.file],
            label=f"Next: {following.title}. {following.question}",
            icon=":material/arrow_forward:",
        )
else:
    with st.container(key="next"):
        st.page_link(
            PAGES[STEPS[0].file], label="This was the last page. Back to the start", icon=":material/arrow_back:"
        )
st.html(
    '<footer class="about">Every result is read from the files of a run. '
    "Slices: The Cancer Imaging Archive, TCGA-LGG, "
    "prepared by Buda, Saha and Mazurowski (2019), CC BY-NC-SA 4.0. Code: Apache-2.0. "
    f"{frame.DISCLAIMER}</footer>"
)
st.session_state["drawn"] = True

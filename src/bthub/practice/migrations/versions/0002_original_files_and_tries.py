"""Whether original files are kept is a choice for each examination; how often its analysis was begun is counted.

Revision 0002 after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CASE = sa.table("case", sa.column("id"), sa.column("keep_identifiers", sa.Boolean))
EXAMINATION = sa.table("examination", sa.column("id"), sa.column("case_id"), sa.column("keep_identifiers", sa.Boolean))
UPLOAD = sa.table("upload", sa.column("examination_id"))

# Never in a batch: SQLite would copy the table and drop the old one, and that deletes all rows that refer to it.


def upgrade() -> None:
    kept = sa.Column("keep_identifiers", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("examination", kept)
    op.add_column("examination", sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
    # Of the examinations of such a case, those whose files are still there.
    cases = sa.select(CASE.c.id).where(CASE.c.keep_identifiers)
    uploaded = sa.select(UPLOAD.c.examination_id)
    op.execute(
        EXAMINATION.update()
        .where(EXAMINATION.c.case_id.in_(cases), EXAMINATION.c.id.in_(uploaded))
        .values(keep_identifiers=True)
    )
    op.drop_column("case", "keep_identifiers")


def downgrade() -> None:
    kept = sa.Column("keep_identifiers", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("case", kept)
    cases = sa.select(EXAMINATION.c.case_id).where(EXAMINATION.c.keep_identifiers, EXAMINATION.c.case_id.is_not(None))
    op.execute(CASE.update().where(CASE.c.id.in_(cases)).values(keep_identifiers=True))
    op.drop_column("examination", "tries")
    op.drop_column("examination", "keep_identifiers")

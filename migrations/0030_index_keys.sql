-- The search tags of a month are made anew with its blobs when its keys are renewed (lập lại chỉ mục tìm kiếm).
-- They are what remains in clear of a guest's document number and name, so only this column list may be changed.

GRANT UPDATE (document_index, person_index, given_name_index) ON stays TO asm_retention;

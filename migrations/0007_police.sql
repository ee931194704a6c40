-- On what basis officers search. Purposes are rules, changed by migration and never by the people they bind.

CREATE TABLE police_purposes (
    code text PRIMARY KEY CHECK (code ~ '^[a-z][a-z_]{2,39}$'),
    title_vi text NOT NULL,
    title_en text NOT NULL,
    legal_basis text NOT NULL,
    query_kinds text[] NOT NULL CHECK (
        query_kinds <@ ARRAY['document', 'person', 'facility_window', 'stay'] AND cardinality(query_kinds) > 0),
    window_days integer NOT NULL CHECK (window_days BETWEEN 1 AND 1830),
    max_rows integer NOT NULL CHECK (max_rows BETWEEN 1 AND 50),
    release_rule text NOT NULL CHECK (release_rule IN ('at_once', 'after_days', 'by_decision')),
    release_after_days integer CHECK (release_after_days > 0),
    active boolean NOT NULL DEFAULT true,
    CHECK ((release_rule = 'after_days') = (release_after_days IS NOT NULL))
);
COMMENT ON TABLE police_purposes IS 'mục đích tra cứu';
COMMENT ON COLUMN police_purposes.window_days IS 'how far back registrations are searched';
COMMENT ON COLUMN police_purposes.release_rule IS 'when the guest may see that they were searched for';

INSERT INTO police_purposes
    (code, title_vi, title_en, legal_basis, query_kinds, window_days, max_rows, release_rule, release_after_days)
VALUES
    ('residence_check', 'Kiểm tra cư trú, lưu trú', 'Residence and stay inspection',
     'Luật Cư trú 68/2020/QH14, Điều 30 (sửa đổi bởi Luật 118/2025/QH15)',
     '{document,person,facility_window,stay}', 366, 20, 'at_once', NULL),
    ('administrative_violation', 'Xử lý vi phạm hành chính về cư trú', 'Administrative violation of residence rules',
     'Nghị định 282/2025/NĐ-CP, Điều 10; Luật Xử lý vi phạm hành chính 15/2012/QH13',
     '{document,facility_window,stay}', 366, 20, 'after_days', 30),
    ('criminal_investigation', 'Điều tra vụ án hình sự', 'Criminal investigation',
     'Bộ luật Tố tụng hình sự 101/2015/QH13, Điều 88',
     '{document,person,facility_window,stay}', 1096, 50, 'by_decision', NULL),
    ('wanted_person', 'Truy nã', 'Search for a wanted person',
     'Bộ luật Tố tụng hình sự 101/2015/QH13, Điều 231',
     '{document,person,stay}', 366, 50, 'by_decision', NULL),
    ('missing_person', 'Tìm người mất tích', 'Search for a missing person',
     'Luật Công an nhân dân 37/2018/QH14, Điều 16',
     '{document,person,stay}', 366, 50, 'after_days', 30),
    ('rescue', 'Cứu nạn, cứu hộ', 'Rescue',
     'Luật Phòng cháy, chữa cháy và cứu nạn, cứu hộ 55/2024/QH15',
     '{facility_window,stay}', 31, 50, 'at_once', NULL);

GRANT SELECT ON police_purposes TO asm_police;

"""Every reason for which content is refused, in one catalogue: a stable code with a Vietnamese and an English text.

Texts name limits, never values: what a person wrote is not repeated in an error (Law 91/2025/QH15).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple


class Text(NamedTuple):
    """One message in the two languages of the system; `{name}` stands for a limit."""

    vi: str
    en: str


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong at one place.

    `pointer` is an RFC 6901 JSON Pointer into the act's fields ("" = the whole), `place` the user's own place
    ("H7", "PID-5.1") where the document is not JSON.
    """

    code: str
    pointer: str
    vi: str
    en: str
    place: str | None = None


def violation(code: str, pointer: str = "", place: str | None = None, **limits: object) -> Violation:
    """Build the violation `code` of the catalogue; `limits` fill its text. Raises KeyError on an unknown code."""
    text = CATALOGUE[code]
    vi, en = text.vi.format(**_in_words(limits, "vi")), text.en.format(**_in_words(limits, "en"))
    return Violation(code, pointer, vi, en, place)


_SHAPE = {
    "required": Text("Thiếu thông tin bắt buộc.", "This is required."),
    "none_chosen": Text(
        "Cần nêu ít nhất một: lượt lưu trú, mã, cơ sở hoặc thời gian.",
        "Say at least one: stays, a code, a facility or a time.",
    ),
    "given_twice": Text("Tham số này được nêu hai lần.", "A parameter is given twice."),
    "unknown_field": Text("Trường này không có trong mẫu khai báo.", "This field is not part of the declaration."),
    "wrong_type": Text("Sai kiểu dữ liệu: cần {expected}.", "Wrong type: {expected} is wanted."),
    "not_json": Text("Nội dung không phải là JSON hợp lệ.", "The content is not valid JSON."),
    "too_long": Text("Dài quá {limit} ký tự.", "Longer than {limit} characters."),
    "too_short": Text("Ngắn hơn {limit} ký tự.", "Shorter than {limit} characters."),
    "out_of_range": Text("Giá trị ngoài khoảng cho phép: {expected}.", "Out of range: {expected}."),
    "wrong_format": Text("Sai định dạng: cần {expected}.", "Wrong format: {expected} is wanted."),
    "unknown_code": Text("Mã không có trong danh mục {table}.", "The code is not in the table {table}."),
    "wrong_date": Text("Ngày không hợp lệ: cần dạng {expected}.", "Not a valid date: {expected} is wanted."),
    "no_offset": Text(
        "Thời điểm phải kèm múi giờ, ví dụ +07:00.", "An instant must carry its offset, for example +07:00."
    ),
}

TABLE_NAMES = {
    "document_types": Text("loại giấy tờ", "document types"),
    "reasons": Text("lý do cư trú", "reasons"),
    "residence_kinds": Text("loại cư trú", "residence kinds"),
    "genders": Text("giới tính (M, F)", "genders (M, F)"),
    "nationalities": Text("quốc tịch, ví dụ VNM, KOR", "nationalities, for example VNM, KOR"),
    "provinces": Text("tỉnh, thành phố (mã 3 chữ số)", "provinces (3 digits)"),
    "communes": Text("phường, xã, đặc khu", "communes"),
    "facility_kinds": Text("loại cơ sở lưu trú", "facility kinds"),
    "kinship": Text("quan hệ với người giám hộ", "kinship"),
    "patient_classes": Text("loại bệnh nhân (PV1-2)", "patient classes (PV1-2)"),
}
"""How people call the code tables that `unknown_code` names."""
_WORDS = {
    "string": Text("chữ", "text"),
    "integer": Text("số nguyên", "a whole number"),
    "boolean": Text("true / false", "true / false"),
    "object": Text("đối tượng JSON {…}", "a JSON object {…}"),
    "array": Text("danh sách JSON […]", "a JSON array […]"),
}


def _in_words(limits: Mapping[str, object], language: Literal["vi", "en"]) -> dict[str, object]:
    """Limits as people read them: tables and types by their names, everything else as it is."""
    named = {"table": TABLE_NAMES, "expected": _WORDS}
    return {
        name: getattr(named[name][str(value)], language) if str(value) in named.get(name, ()) else value
        for name, value in limits.items()
    }


_QUERY = {
    "unknown_parameter": Text("Tham số này không có.", "There is no such parameter."),
    "facility_in_user_name": Text(
        "Khoá này dùng cho nhiều cơ sở: tên đăng nhập là mã khoá, dấu @ và mã cơ sở.",
        "This key serves several facilities: the user name is the key's id, an @ and the facility's code.",
    ),
    "too_many_webhooks": Text(
        "Đã có {limit} địa chỉ webhook: hãy xoá một địa chỉ không dùng nữa.",
        "There are {limit} webhooks already: delete one that is not used any more.",
    ),
    "wrong_cursor": Text("Con trỏ không thuộc danh sách này.", "The cursor does not belong to this list."),
}

_DOCUMENT = {
    "card_number_removed": Text(
        "Ô này chứa số thẻ thanh toán: đã bỏ, không lưu.", "This holds the number of a payment card: it was dropped."
    ),
    "unreadable_file": Text("Không đọc được tệp.", "The file cannot be read."),
    "file_too_large": Text("Tệp vượt quá giới hạn {limit}.", "The file is larger than {limit}."),
    "no_rows": Text("Tệp không có dòng dữ liệu nào: không có gì được khai báo.", "No data row: nothing was declared."),
    "missing_sheet": Text("Không tìm thấy trang tính {expected}.", "The sheet {expected} was not found."),
    "missing_column": Text("Thiếu cột {expected}.", "The column {expected} is missing."),
    "ambiguous_date": Text(
        "Ngày không rõ ràng (ngày và tháng có thể bị đảo): hãy nhập dạng chữ dd/MM/yyyy.",
        "Ambiguous date (day and month may be swapped): enter it as text, dd/MM/yyyy.",
    ),
    "undecodable": Text("Không giải mã được ký tự theo bảng mã {expected}.", "Not decodable as {expected}."),
    "too_many_rows": Text("Tệp có quá {limit} dòng: hãy chia nhỏ tệp.", "More than {limit} rows: split the file."),
    "repeated_column": Text("Cột {expected} xuất hiện hai lần.", "The column {expected} stands there twice."),
    "too_many_columns": Text(
        "Dòng có quá {limit} ô: kiểm tra dấu phân cách.", "A line has more than {limit} cells: check the separator."
    ),
    "too_many_cells": Text(
        "Dòng có nhiều ô hơn {limit} cột của tiêu đề: các ô có thể bị lệch.",
        "The row has more cells than the {limit} columns of the heading: cells may have shifted.",
    ),
    "unreadable_row": Text(
        "Dòng sai cấu trúc (kiểm tra dấu ngoặc kép và dấu phân cách).",
        "The row is malformed (check the quotes and the separators).",
    ),
    "contradicts": Text("Mâu thuẫn với {expected}.", "This contradicts {expected}."),
    "several_sheets": Text(
        "Nhiều trang tính có danh sách khách: hãy giữ lại một trang trong tệp.",
        "Several sheets hold a list of guests: leave one of them in the file.",
    ),
    "cell_error": Text("Ô chứa lỗi của bảng tính.", "The cell holds a spreadsheet error."),
    "duplicate_row": Text(
        "Trùng giấy tờ và ngày đến với dòng {limit}.", "Same document and day of arrival as row {limit}."
    ),
}

_MESSAGE = {
    "message_too_large": Text(
        "Bản tin có quá {limit} phân đoạn, trường, lần lặp hoặc thành phần.",
        "The message has more than {limit} segments, fields, repetitions or components.",
    ),
    "not_hl7": Text("Không phải bản tin HL7 v2 trọn vẹn.", "Not a complete HL7 v2 message."),
    "batch_incomplete": Text(
        "Lô bản tin không trọn vẹn: thiếu BTS, hoặc số bản tin khác BTS-1. Không tiếp nhận bản tin nào.",
        "The batch is incomplete: no BTS, or not as many messages as BTS-1 says. None of them was taken.",
    ),
    "missing_segment": Text("Thiếu đoạn {expected}.", "The segment {expected} is missing."),
    "unsupported_event": Text(
        "Chưa tiếp nhận loại sự kiện này: hiện nhận {expected}.", "This event is not taken: {expected} are."
    ),
}

_XML = {
    "not_well_formed": Text("Tệp XML sai cú pháp.", "The XML is not well-formed."),
    "doctype_refused": Text(
        "Tệp XML chứa DOCTYPE hoặc ENTITY: không được tiếp nhận.", "XML with a DOCTYPE or an ENTITY is not taken."
    ),
    "too_deep": Text("Các thẻ XML lồng nhau quá {limit} cấp.", "XML elements are nested more than {limit} deep."),
    "missing_element": Text("Không tìm thấy thẻ {expected}.", "The element {expected} was not found."),
    "repeated_element": Text("Thẻ này xuất hiện hai lần trong một khách.", "This element stands there twice."),
}

_IDENTITY = {
    "unknown_payload": Text(
        "Không nhận ra mã QR thẻ căn cước hay vùng MRZ: hãy quét lại.",
        "Neither the QR code of an identity card nor a machine readable zone: please scan again.",
    ),
    "not_card_qr": Text(
        "Không phải mã QR của thẻ căn cước (ít nhất {limit} trường cách nhau bởi dấu |): hãy quét thẻ căn cước.",
        "Not the QR code of an identity card (at least {limit} fields between |): scan the identity card.",
    ),
    "wrong_scanner_charset": Text(
        "Máy quét gửi sai bảng mã: hãy đặt máy quét về UTF-8 rồi quét lại.",
        "The scanner sends another charset: set it to UTF-8 and scan again.",
    ),
    "not_mrz": Text("Không phải vùng MRZ trọn vẹn: cần {expected}.", "Not a whole MRZ: {expected} is wanted."),
    "not_identity_document": Text(
        "MRZ này không phải của hộ chiếu hay thẻ căn cước (có thể là thị thực): hãy quét giấy tờ tuỳ thân.",
        "This MRZ is of neither a passport nor an identity card (perhaps of a visa): scan the identity document.",
    ),
    "mrz_character": Text(
        "Ký tự không thể có ở vị trí này (cần {expected}): máy quét đọc nhầm, hoặc bộ gõ tiếng Việt đang bật.",
        "No such character can stand here ({expected} can): misread, or changed by a Vietnamese keyboard method.",
    ),
    "mrz_check_digit": Text(
        "Số kiểm tra không khớp: hãy quét lại, hoặc đối chiếu với giấy tờ.",
        "The check digit does not agree: scan again, or compare with the document.",
    ),
    "mrz_look_alike": Text(
        "Số kiểm tra sẽ khớp nếu ký tự ở vị trí này là ký tự có hình giống nó (0 O, 1 I, 2 Z, 5 S, 6 G, 8 B).",
        "The check digit would agree if the character here were one of the same shape (0 O, 1 I, 2 Z, 5 S, 6 G, 8 B).",
    ),
}

_DECLARATION = {
    "wrong_source_ref": Text(
        "Mã tham chiếu chỉ gồm chữ không dấu, chữ số và dấu câu, không có dấu cách.",
        "A source_ref consists of unaccented letters, digits and punctuation, without spaces.",
    ),
    "blank_name": Text("Họ tên không được để trống.", "The name must not be blank."),
    "wrong_name": Text(
        "Họ tên chỉ gồm chữ cái, dấu cách và các dấu . , ' -",
        "A name consists of letters, spaces and the marks . , ' -",
    ),
    "wrong_document_number": Text(
        "Số giấy tờ không đúng dạng của loại giấy tờ này: cần {expected}.",
        "The number does not have the form of this document type: {expected} is wanted.",
    ),
    "document_name_required": Text(
        "Loại giấy tờ 9 (giấy tờ khác) phải kèm tên giấy tờ.", "Document type 9 (other) must be named."
    ),
    "document_or_guardian_required": Text(
        "Thiếu giấy tờ. Chỉ khách dưới {limit} tuổi được khai theo người giám hộ (guardian) thay cho giấy tờ.",
        "There is no document. Only a guest under {limit} years may be declared with a guardian instead.",
    ),
    "document_required_from_age": Text(
        "Khách từ đủ {limit} tuổi vào ngày đến phải có giấy tờ; người giám hộ không thay được. Ngày sinh chỉ ghi tháng"
        " hoặc năm được tính theo ngày sớm nhất.",
        "A guest who is {limit} or older on the day of arrival needs a document; a guardian does not replace it. A"
        " birth date known to the month or year counts as its first day.",
    ),
    "guardian_reference_required": Text(
        "Người giám hộ phải được nêu bằng số giấy tờ (document) hoặc mã tham chiếu lượt lưu trú (source_ref).",
        "A guardian is named by a document, or by the source_ref of the guardian's own stay.",
    ),
    "birth_date_out_of_range": Text(
        "Ngày sinh ngoài khoảng hợp lý (từ năm 1880 đến hôm nay).", "The birth date is outside 1880 to today."
    ),
    "arrival_too_far_ahead": Text(
        "Thời điểm đến còn cách hơn {limit} giờ: chỉ khai báo khi khách đến.",
        "The arrival is more than {limit} hours ahead: declare when the guest arrives.",
    ),
    "arrival_too_long_ago": Text(
        "Thời điểm đến đã quá {limit} ngày: hãy kiểm tra lại năm.",
        "The arrival is more than {limit} days ago: check the year.",
    ),
    "departure_before_arrival": Text(
        "Thời điểm đi không được trước thời điểm đến.", "The departure must not be before the arrival."
    ),
    "departure_in_future": Text(
        "Thời điểm đi thực tế không được ở tương lai.", "An actual departure cannot lie in the future."
    ),
    "departure_not_later": Text(
        "Gia hạn: thời điểm đi mới phải sau thời điểm đi dự kiến hiện tại.",
        "An extension: the new departure must be later than the planned one.",
    ),
    "stay_too_long": Text("Thời gian lưu trú quá {limit} ngày.", "The stay is longer than {limit} days."),
    "repeated_in_batch": Text(
        "Trùng mã tham chiếu với dòng {limit} nhưng nội dung khác.",
        "Same source_ref as row {limit}, but other content.",
    ),
    "not_correctable": Text(
        "Không thể đính chính trường này: hãy huỷ và khai báo lại.",
        "This cannot be corrected: cancel the stay and declare again.",
    ),
}

_WARNINGS = {
    "leading_zeros_restored": Text(
        "Số bị mất số 0 ở đầu đã được khôi phục: hãy kiểm tra lại.",
        "Leading zeros that were lost have been restored: please check the number.",
    ),
    "unknown_columns": Text(
        "Không nhận ra {limit} cột (xem vị trí): nội dung của chúng không được đọc.",
        "{limit} columns were not recognised (see the place): what they hold was not read.",
    ),
    "former_unit": Text(
        "Tên đơn vị hành chính cũ đã được thay bằng đơn vị hiện nay theo bảng sắp xếp ngày 01/7/2025.",
        "A former administrative unit was replaced by the one in force, by the table of 1 July 2025.",
    ),
    "former_unit_divided": Text(
        "Đơn vị hành chính cũ ứng với nhiều đơn vị hiện nay: giữ nguyên như đã ghi, hãy kiểm tra lại.",
        "A former administrative unit corresponds to several in force: kept as written, please check.",
    ),
    "ward_of_another_province": Text(
        "Phường, xã không thuộc tỉnh đã ghi: giữ nguyên như đã ghi, hãy kiểm tra lại.",
        "The ward is not one of the province given: kept as written, please check.",
    ),
    "old_or_locked_workbook": Text(
        "Tệp Excel đời cũ (.xls) hoặc có mật khẩu: hãy lưu lại dạng .xlsx, không đặt mật khẩu.",
        "A workbook of Excel 97-2003 (.xls), or one with a password: save it as .xlsx without a password.",
    ),
    "heading_row_read": Text(
        "Dòng thuộc phần tiêu đề của mẫu nhưng có dữ liệu nên đã được đọc như một khách.",
        "The row belongs to the form's heading but holds data, so it was read as a guest.",
    ),
    "personal_number_sex": Text(
        "Giới tính không khớp với số định danh cá nhân.", "The gender disagrees with the personal number."
    ),
    "personal_number_year": Text(
        "Năm sinh không khớp với số định danh cá nhân.", "The birth year disagrees with the personal number."
    ),
    "personal_number_prefix": Text(
        "Ba số đầu của số định danh cá nhân không phải mã nơi đăng ký khai sinh.",
        "The personal number does not begin with a known place of birth registration.",
    ),
    "document_type_open": Text(
        "Dữ liệu quét không cho biết đây là thẻ CCCD (1) hay thẻ Căn cước (8): hãy chọn theo tên in trên thẻ.",
        "The scan does not tell a CCCD (1) from a Căn cước card (8): choose by the title printed on the card.",
    ),
    "issue_date_doubtful": Text(
        "Ngày cấp trong mã QR không hợp lệ: hãy đối chiếu với thẻ.",
        "The date of issue in the QR code makes no sense: compare with the card.",
    ),
    "name_to_confirm": Text(
        "Họ tên trong MRZ không có dấu và không có số kiểm tra: hãy đối chiếu với giấy tờ.",
        "A name in an MRZ has neither marks nor a check digit: compare it with the document.",
    ),
    "name_truncated": Text(
        "Họ tên trong MRZ có thể đã bị cắt bớt: hãy nhập đủ theo giấy tờ.",
        "The name fills the MRZ and may be cut off: complete it from the document.",
    ),
    "document_expired": Text("Giấy tờ đã hết hạn.", "The document has expired."),
    "card_number_differs": Text(
        "Số thẻ ở dòng 1 của MRZ không khớp với số định danh cá nhân cùng dòng: hãy đối chiếu với thẻ.",
        "The card number in line 1 of the MRZ disagrees with the personal number beside it: compare with the card.",
    ),
    "document_missing_minor": Text(
        "Trẻ em được khai không có giấy tờ: khi biết số định danh cá nhân hoặc số hộ chiếu, hãy đính chính bổ sung.",
        "A minor is declared without a document: correct the stay once the personal or passport number is known.",
    ),
    "guardian_not_found": Text(
        "Chưa thấy lượt lưu trú của người giám hộ tại cơ sở: hãy khai báo người đó, hoặc kiểm tra lại.",
        "The guardian has no stay at the facility so far: declare that guest too, or check how they are named.",
    ),
    "guardian_not_in_house": Text(
        "Người giám hộ đã rời đi hoặc lượt lưu trú của người đó đã huỷ: hãy kiểm tra ai đang ở cùng trẻ.",
        "The guardian has left, or that stay is cancelled: check who stays with the child.",
    ),
    "party_without_head": Text(
        "Đoàn chưa có trưởng đoàn tại cơ sở: hãy khai báo trưởng đoàn.",
        "The party has no head in house so far: declare the head of the party.",
    ),
    "party_with_other_head": Text(
        "Đoàn đã có trưởng đoàn khác đang ở cơ sở.", "Another guest in house is the head of this party already."
    ),
    "foreigner_duty": Text(
        "Biên nhận này không thay cho khai báo tạm trú của người nước ngoài (NA17, 12 giờ).",
        "This receipt does not replace the foreigner's temporary residence declaration (NA17, 12 hours).",
    ),
}

_DIRECTORY = {
    "code_taken": Text("Mã này đã được dùng.", "This code is taken."),
    "unknown_facility": Text("Không có cơ sở nào mang mã này.", "No facility has this code."),
    "address_not_public": Text(
        "Địa chỉ này không thuộc mạng công cộng nên không gửi sự kiện đến được.",
        "This address is not public, so no events are sent to it.",
    ),
    "unknown_principal": Text(
        "Không có chủ thể nào đang hoạt động mang mã này.", "No active principal has this identifier."
    ),
    "holds_no_grants": Text(
        "Chỉ chủ cơ sở (owner) và nhà cung cấp phần mềm (vendor) được cấp quyền tại cơ sở.",
        "Only owners and vendors are granted anything at a facility.",
    ),
    "sandbox_and_real": Text(
        "Một chủ thể không thể vừa có quyền tại cơ sở thử nghiệm vừa có quyền tại cơ sở thật: hãy tạo hai chủ thể.",
        "A principal cannot hold grants for both sandbox and real facilities: make two principals.",
    ),
    "department_only": Text(
        "Phải nêu sở, ban ngành (department) khi và chỉ khi chủ thể là sở, ban ngành.",
        "A department is named exactly when the principal is one.",
    ),
}

_ROSTER = {
    "outside_scope": Text(
        "Dòng này không thuộc phạm vi của danh sách ({expected}).",
        "The line is not of the roster's scope ({expected}).",
    ),
    "listed_twice": Text(
        "Người mang giấy tờ này đã có trong danh sách, ở dòng {limit}.",
        "The person with this document is on the list already, in line {limit}.",
    ),
    "not_a_guest_line": Text(
        "Danh sách chỉ gồm người đang ở: dòng này là việc khác.", "A roster lists guests: this line is something else."
    ),
    "no_such_decision": Text(
        "Dòng {limit} không có gì để quyết định, hoặc không quyết định như vậy được.",
        "There is nothing to decide about line {limit}, or not this.",
    ),
    "in_future": Text("Ngày này chưa đến.", "This day has not come yet."),
}

CATALOGUE: dict[str, Text] = {
    **_SHAPE,
    **_QUERY,
    **_DOCUMENT,
    **_MESSAGE,
    **_XML,
    **_IDENTITY,
    **_DECLARATION,
    **_WARNINGS,
    **_DIRECTORY,
    **_ROSTER,
}

"""Synthetic people, for samples, tests and the seeded population alike: the same index is the same person everywhere.

No real person can be meant: no province has the personal number prefix 000, and no state issues passports `TESTnnnnn`.
"""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from typing import NamedTuple

PERSONS = 1_000_000
"""How many synthetic people there are: `person` takes 0 ≤ index < PERSONS."""

_FAMILIES = (
    "NGUYỄN TRẦN LÊ PHẠM HOÀNG PHAN VŨ ĐẶNG BÙI ĐỖ HỒ NGÔ DƯƠNG LÝ ĐOÀN VƯƠNG TRỊNH TRƯƠNG ĐINH LÂM PHÙNG MAI TÔ HÀ TẠ"
)
_MALE_MIDDLES = "VĂN ĐỨC HỮU CÔNG QUANG MINH XUÂN ĐÌNH THÀNH QUỐC TRỌNG DUY"
_MALE_GIVEN = (
    "HÙNG DŨNG CƯỜNG TUẤN NAM SƠN HẢI LONG PHONG THẮNG TRUNG KIÊN ĐẠT HOÀNG HUY KHOA LÂM NGHĨA PHÚC QUÂN TÀI THỊNH VIỆT"
)
_FEMALE_MIDDLES = "THỊ NGỌC THU THANH HỒNG KIM BÍCH PHƯƠNG MỸ DIỆU"
_FEMALE_GIVEN = (
    "LAN HOA HƯƠNG MAI LINH TRANG HẰNG NGA THẢO YẾN HUYỀN DUNG OANH VÂN LOAN NHUNG QUỲNH TUYẾT XUÂN CHI GIANG HẠNH THỦY"
)

_FOREIGNERS: tuple[tuple[str, str, str, str], ...] = (
    # nationality, family names, male given names, female given names
    ("KOR", "KIM LEE PARK CHOI JUNG", "MINJUN SEOJUN DOYUN JIHO", "SEOYEON JIWOO HAEUN MINSEO"),
    ("CHN", "WANG LI ZHANG CHEN LIU", "WEI JUN LEI FENG", "FANG JING YAN XIU"),
    ("JPN", "SATO SUZUKI TANAKA ITO", "HIROSHI KENJI TAKASHI", "YUKO KEIKO NAOMI"),
    ("USA", "SMITH JOHNSON BROWN DAVIS", "JAMES ROBERT DAVID", "MARY LINDA SUSAN"),
    ("FRA", "MARTIN BERNARD DUBOIS PETIT", "LUC PIERRE JULIEN", "CLAIRE SOPHIE CAMILLE"),
    ("DEU", "MÜLLER SCHMIDT WEBER WAGNER", "LUKAS JONAS FELIX", "ANNA LENA KATRIN"),
    ("GBR", "TAYLOR EVANS WALKER WRIGHT", "OLIVER HARRY GEORGE", "EMILY GRACE ALICE"),
    ("AUS", "KELLY WILSON HARRIS", "JACK COOPER LIAM", "OLIVIA RUBY CHLOE"),
    ("IND", "SHARMA PATEL SINGH GUPTA", "ARJUN RAVI VIJAY", "PRIYA ANITA DEEPA"),
    ("THA", "SUKSAN CHAIYASIT WONGSA", "SOMCHAI NIRAN ANAN", "MALEE SIRIPORN KANYA"),
    ("LAO", "PHOMMA SISOUK VONGSA", "KHAM BOUN SOMSAK", "NOY CHANTHA MANIVANH"),
    ("BRA", "SILVA SANTOS OLIVEIRA", "JOÃO PEDRO RAFAEL", "ANA JULIANA BEATRIZ"),
)

_FIRST_BIRTH_ON = date(1946, 1, 1)
_BIRTH_DAYS = (date(2006, 1, 1) - _FIRST_BIRTH_ON).days


class Person(NamedTuple):
    """One synthetic person. `birth_date` is YYYY-MM-DD, `gender` M or F, `nationality` ISO 3166-1 alpha-3,
    `document_type` an official code: 1 (thẻ CCCD) or 8 (thẻ Căn cước) with a personal number, 4 (hộ chiếu) abroad."""

    full_name: str
    birth_date: str
    gender: str
    nationality: str
    document_type: int
    document_number: str


class _Dice:
    """Choices drawn from a hash of the index: the same in every process and Python version, unlike `random`."""

    def __init__(self, index: int) -> None:
        digest = hashlib.blake2b(b"asm synthetic person %d" % index, digest_size=16).digest()
        self._rest = int.from_bytes(digest)

    def below(self, limit: int) -> int:
        self._rest, drawn = divmod(self._rest, limit)
        return drawn

    def among(self, words: str) -> str:
        choices = words.split()
        return choices[self.below(len(choices))]


def person(index: int) -> Person:
    """The synthetic person number `index`; raises ValueError outside 0 ≤ index < PERSONS.

    Every tenth is a foreigner with the passport `TEST` + five digits. The others hold the personal number `000`, the
    digit of century and sex (0 and 1 in 19xx, 2 and 3 in 20xx), two digits of the birth year, six of the index: no two
    people share a document, and name, sex and birth year agree with it. All are adults in 2026 (born 1946-2005).
    """
    if not 0 <= index < PERSONS:
        raise ValueError(f"there are {PERSONS} synthetic people, from 0")
    dice = _Dice(index)
    born = _FIRST_BIRTH_ON + timedelta(days=dice.below(_BIRTH_DAYS))
    male = dice.below(2) == 0
    gender = "M" if male else "F"
    if index % 10 == 9:
        nationality, families, men, women = _FOREIGNERS[dice.below(len(_FOREIGNERS))]
        name = f"{dice.among(families)} {dice.among(men if male else women)}"
        return Person(name, born.isoformat(), gender, nationality, 4, f"TEST{index // 10:05d}")
    middles, given = (_MALE_MIDDLES, _MALE_GIVEN) if male else (_FEMALE_MIDDLES, _FEMALE_GIVEN)
    name = f"{dice.among(_FAMILIES)} {dice.among(middles)} {dice.among(given)}"
    century_sex = (0 if born.year < 2000 else 2) + (0 if male else 1)
    number = f"000{century_sex}{born.year % 100:02d}{index:06d}"
    return Person(name, born.isoformat(), gender, "VNM", 8 if dice.below(3) == 0 else 1, number)

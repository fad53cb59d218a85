"""Recorded messages of upstream's kbs-client, with the data that each report data covers.

Builds: trustee 78962cd with guest-components da8d93f2 (0.4.0), trustee v0.12.0 with
guest-components 27b8245 (0.2.0), both with the sample TEE. The keys are spent.
"""

from __future__ import annotations

from dataclasses import dataclass

from verdictd_py.guest.rcar.messages import JsonObject, Version


@dataclass(frozen=True)
class Seen:
    """One recorded handshake."""

    name: str
    version: Version
    nonce: str
    jwk: JsonObject
    report_data: str
    additional: str = ""


SEEN = (
    Seen(
        name="0.4.0 P-256",
        version=Version.V0_4_0,
        nonce="dqYrVh1SmqRHkdnTILuse+DO1MPx8YKB5n1XGF0rM7Q=",
        jwk={
            "kty": "EC",
            "crv": "P-256",
            "alg": "ECDH-ES+A256KW",
            "x": "MrPH0BB2teZzg7DxP0X74Li88B440FiRCYfFiqACWMc",
            "y": "jgP68mutJM8-q2XRJ42BFIas6OfZwuXZXciF2hdHrts",
        },
        report_data="I6cgjEf6OILJrT7x0OJZhVbR5ODolfC+JJu1hc4Htn9+AwrO/bndj4a4pG8u3Yx+",
    ),
    Seen(
        name="0.4.0 RSA",
        version=Version.V0_4_0,
        nonce="15foWLFlhBIdDXWTBckyqS8yklJQxQx7RY8RcJETj1c=",
        jwk={
            "kty": "RSA",
            "alg": "RSA-OAEP-256",
            "n": (
                "imMVekNlA3939DT6LQv8xV_wUt8-y3XakNmwYIgdbODDRLIA4CvQw2HU0p4FylQy"
                "ZN6ztFY2w577aQ1lJUNiTv5Jo7vGA4nCUVrGMfYgaoMPHAq72TFj5RXM1SHYNQqw"
                "CXFBaQsA78Vcl2ZA_Cu1mnLmxYIlxtQVyoHmUkcP_UTpZjcoqeutPyspjCXr-0ZJ"
                "3kMFf4pdf2cU9ova6i0TPtggyKdWwU7x2q6ehCs0M-4ETN8RV0l7BtpwQBmUnrtl"
                "42kWrLm_mUqByw7UeSpXPT3e9Ptr1nCdggSogQZ-_Ag5DsU0mlypPqjgd3JZAQ_6"
                "23pWyYqPhFFiY6yG1ImE0w"
            ),
            "e": "AQAB",
        },
        report_data="mJvEzmUdE/MPRTHjjKwiPu6R0aDwvHmRFeZk3qZDltIQoDAFMr0o+X3j+bfvozzG",
    ),
    Seen(
        name="0.4.0 P-521",
        version=Version.V0_4_0,
        nonce="N8CDX5KU2XPiOfJh7Paa5mFkhZxMlwXnvm2xkrSSzb4=",
        jwk={
            "kty": "EC",
            "crv": "P-521",
            "alg": "ECDH-ES+A256KW",
            "x": (
                "ADFNvV26401xv19Zr3FHPSnndUw4-xtegJENRduEQ8oy_UZhwZ0aNS9pm8SISHfE"
                "N9V1imtPUPmfk1vTP_YEspLT"
            ),
            "y": (
                "AE95jDWykcKxX78xC07nWWx4p2BFNhtrehlQ_LKMhWK2iRSgmcgUC4fHCIh79Iah"
                "0K5uUktokFGXQO3jng6vlx3r"
            ),
        },
        report_data="0+Bc2067+8LesAhB4bk4tiaPjwChhzDTgn25AWPXDcqMOqDqABxbj4PCB0O7CMeJ",
    ),
    Seen(
        name="0.4.0 P-256 with a device",
        version=Version.V0_4_0,
        nonce="67PQDkxIG/4wVDoZTgUFS6TviZIRTRge7Z1g6RBvgro=",
        jwk={
            "kty": "EC",
            "crv": "P-256",
            "alg": "ECDH-ES+A256KW",
            "x": "xC7czXgLSoEtlx-8L__aRr_9rsCemjSXxqAMpHlE4us",
            "y": "TFjdG4n7BvuuRgpKIn5db1hqDwNroszMHUfF51HBE9U",
        },
        report_data="Sb3vWxzNUa1shn7wbk1uAtYH6NJ5rR0wvaCvDCmF0YlBLcFr3oH3NuKu1W2bITT4",
        additional=(
            '{"sampledevice":{"report_data":"aFzokxyzmeuyupgOttrvjiaKQaHlJi4e'
            'lh3uE+3FxGIH0m8Ob0KglFAjSss9O7oW","svn":"2"}}'
        ),
    ),
    Seen(
        name="0.2.0 P-256",
        version=Version.V0_2_0,
        nonce="+4pPcG5peghsezTCSdOg50JWOyi5mp47tLxC3TZxBrc=",
        jwk={
            "kty": "EC",
            "crv": "P-256",
            "alg": "ECDH-ES+A256KW",
            "x": "xb0QpEWC0zL6y--1SFfOfAOxENoNAIJbdHaQfUASzUU",
            "y": "iMpDLxuaX27oqqoKF9w-hKDxVHB1GUybNsRJuKZy8pM",
        },
        report_data="fOjFwoYFwDH79HCRkqU1bm1i7B9qPXKJGGka6Uznr2pShrIdS+ipBsTNtX02s+6M",
    ),
    Seen(
        name="0.2.0 RSA",
        version=Version.V0_2_0,
        nonce="VGrA8yBy90zdaTu3fz4ivM6IHTHriJzqOmRRa9vkoRY=",
        jwk={
            "kty": "RSA",
            "alg": "RSA-OAEP-256",
            "n": (
                "imMVekNlA3939DT6LQv8xV_wUt8-y3XakNmwYIgdbODDRLIA4CvQw2HU0p4FylQy"
                "ZN6ztFY2w577aQ1lJUNiTv5Jo7vGA4nCUVrGMfYgaoMPHAq72TFj5RXM1SHYNQqw"
                "CXFBaQsA78Vcl2ZA_Cu1mnLmxYIlxtQVyoHmUkcP_UTpZjcoqeutPyspjCXr-0ZJ"
                "3kMFf4pdf2cU9ova6i0TPtggyKdWwU7x2q6ehCs0M-4ETN8RV0l7BtpwQBmUnrtl"
                "42kWrLm_mUqByw7UeSpXPT3e9Ptr1nCdggSogQZ-_Ag5DsU0mlypPqjgd3JZAQ_6"
                "23pWyYqPhFFiY6yG1ImE0w"
            ),
            "e": "AQAB",
        },
        report_data="owQ7dK2S+0+96qTbPXHf5B1EYiueLeuZByVi/A0YJ2ZwUqNeKWPrzuD2vwkJm7QS",
    ),
)

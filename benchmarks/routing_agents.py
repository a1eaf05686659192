"""The eight agents of benchmarks/routing: what a support desk would register. Not tuned to the queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class About:
    """What a router is told of an agent."""

    name: str
    description: str
    english_intents: tuple[str, ...]
    japanese_intents: tuple[str, ...]
    english_samples: tuple[str, ...]
    japanese_samples: tuple[str, ...]

    @property
    def told(self) -> dict[str, Any]:
        """The arguments of `register`, or of a Route."""
        intents = (*self.english_intents, *self.japanese_intents)
        samples = (*self.english_samples, *self.japanese_samples)
        return {"name": self.name, "description": self.description, "intents": intents, "samples": samples}


AGENTS: Final = (
    About(
        "weather",
        "Tells how the weather is and will be: temperature, rain, snow, wind.",
        ("weather", "forecast", "temperature", "rain", "snow", "umbrella", "typhoon", "sunny"),
        ("天気", "気温", "雨", "雪", "台風", "予報", "傘", "晴れ"),
        ("What is the weather in Paris today?", "Is it going to be cold tonight?", "How hot is it in Rome?"),
        ("明日の京都の天気は？", "今日は寒いですか", "外は暑いですか"),
    ),
    About(
        "translation",
        "Translates texts between languages, and explains foreign words.",
        ("translate", "translation", "how do you say", "in Japanese", "in French", "in English", "in Spanish"),
        ("翻訳", "英訳", "和訳", "訳して", "英語で", "日本語に", "フランス語"),
        ("How do I say hello in Italian?", "What does this word mean?", "Put this text into German"),
        ("これは英語で何と言いますか", "この単語の意味は？", "ドイツ語に訳してください"),
    ),
    About(
        "summary",
        "Makes long texts short: key points, abstracts, minutes.",
        ("summarise", "summarize", "summary", "key points", "tl;dr", "shorten", "bullet points", "takeaways"),
        ("要約", "要点", "まとめて", "概要", "箇条書き", "あらすじ", "短く"),
        ("Give me a short version of this text", "What is this report about, in two sentences?"),
        ("この文章を短くしてください", "報告書のポイントは何ですか"),
    ),
    About(
        "orders",
        "Knows where orders are: shipping, delivery, tracking, addresses.",
        ("track", "my order", "parcel", "package", "delivery", "deliver", "shipping", "shipped", "courier"),
        ("注文", "荷物", "配送", "配達", "発送", "届きますか", "追跡", "お届け"),
        ("Where is the thing I ordered?", "When does it arrive?", "It has not arrived yet"),
        ("商品はいつ来ますか", "まだ届いていません", "住所を変えたい"),
    ),
    About(
        "refunds",
        "Takes things back: returns, exchanges, refunds, broken items.",
        ("refund", "return", "money back", "send back", "exchange", "reimburse", "broken", "damaged"),
        ("返品", "返金", "払い戻し", "交換", "返したい", "壊れ", "不良品"),
        ("I do not want this item any more", "It does not fit, what can I do?", "You sent me the wrong thing"),
        ("気に入らないので返したい", "サイズが違います", "違う商品が届いた"),
    ),
    About(
        "calendar",
        "Keeps the calendar: meetings, appointments, reminders, free time.",
        ("schedule", "meeting", "calendar", "appointment", "remind me", "am I free", "book a room", "invite"),
        ("予定", "会議", "打ち合わせ", "予約", "リマインド", "アポ", "空いて"),
        ("What do I have on Monday?", "Find a time for the two of us", "Move my ten o'clock to eleven"),
        ("月曜は何がありますか", "二人の都合のよい時間は？", "十時の約束を十一時にして"),
    ),
    About(
        "billing",
        "Answers about money we take: invoices, charges, plans, payment.",
        ("invoice", "bill", "charged", "payment", "subscription", "credit card", "receipt", "pay", "plan"),
        ("請求", "支払い", "料金", "領収書", "クレジットカード", "解約", "プラン", "払え"),
        ("Why did you take so much money?", "How much does it cost?", "I would like to pay in another way"),
        ("いくらかかりますか", "なぜこんなに高いのですか", "引き落とされていました"),
    ),
    About(
        "accounts",
        "Helps with accounts: passwords, login, verification, e-mail addresses, deleting.",
        ("password", "log in", "login", "sign in", "account", "two-factor", "verification code", "username", "locked"),
        ("パスワード", "ログイン", "アカウント", "認証", "二段階", "退会", "サインイン"),
        ("I cannot get into my profile", "Someone hacked me", "How do I change my e-mail?"),
        ("入れません", "乗っ取られました", "メールアドレスを変えたい"),
    ),
)

"""Sign-in with a Hugging Face account: on a Space only, where the Hub gives the application its id and secret."""

from fastapi import APIRouter

router = APIRouter()
